"""The cases: each module has `tasks(quick)`; some have `remarks(quick)`, lines told beside."""

CASES = {
    "ppo_update": "one PPO update: obs 32, 4 continuous actions, 2×128 units",
    "adam": "functional Adam on the parameters of that actor and critic",
    "gae": "generalised advantage estimates, four shapes",
    "ensemble": "one update of many vmapped members: 128 rows, obs 4, 2 actions, 2×64 units",
    "training": "PPO on CartPole, environment steps per second with everything included",
    "values": "values of trajectories, one call for all agents",
    "recurrent": "LSTM and GRU by themselves, and the PPO update on sequences",
    "recurrent_training": "recurrent PPO on CartPole without velocities, everything included",
    "sac_update": "one SAC update: 256 rows, and 16 sequences of 64",
    "sac_training": "SAC on Pendulum with an update per step, everything included",
    "poca": "one POCA update of 1,024 rows with mates, and values of whole groups",
    "images": "one PPO update of 256 images of 3×84×84, its time and its memory",
    "classes": "ML-Agents' classes here and there: update and value estimates, conversion included",
    "loop": "ML-Agents' own trainer loop, its trainers against the plugin's",
    "signals": "curiosity, GAIL and RND: update and evaluate on 1,024 rows",
    "import": "what importing optinfra costs beside importing torch",
    "random": "random numbers (information only)",
}
MODULES = {name: f"benchmarks.cases.{name}" for name in CASES} | {
    "import": "benchmarks.cases.importing"
}
