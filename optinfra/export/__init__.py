"""Policies as ONNX files that Unity ML-Agents' runtime takes."""

from optinfra.export.graph import OPSET as OPSET
from optinfra.export.graph import ExportError as ExportError
from optinfra.export.policy import policy as policy
from optinfra.export.write import SUFFIX as SUFFIX
from optinfra.export.write import save as save
