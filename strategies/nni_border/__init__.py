"""The one place where the rough edges of NNI 3.0 are met.

What NNI does by itself                                   the remedy, and where it is
------------------------------------------------------   ---------------------------------------
an exception in a tuner only reaches a log file           `tuner.BorderTuner` (every entry point)
why a tuner has given up is not in the web UI             `tuner.BorderTuner` lets a trial say it
a tuner sees no GPU                                       `tuner.BorderTuner`
with concurrency, trials get each other's parameters      `trial.trial_parameters`, ``machines.js``
a trial's parameters come back as ``''``                  `tuner.BorderTuner` keeps its own map
a tuner that waits blocks everybody's results             `tuner.BorderTuner` supplies trials later
an experiment without more trials never ends              `tuner.BorderTuner` ends it
a failed experiment exits with code 0                     `launcher` (``sedona-nni run``)
the scheduler hangs on a host with one GPU                `devices.claim_device`
after a resume, results of re-run trials go astray        `tuner.BorderTuner` adopts those trials
the resume of NNI's own NAS experiments is broken         `sources.exploring` does without it
the web server listens to the whole network               `launcher` and ``loopback.js``
a tuner that imports for ten seconds has failed           `launcher` and ``patience.js``
whoever answers at a port is taken for the manager        `nnictl`, `rest.ManagerApi`
a proxy is asked for addresses of this machine            `rest.proxy_exceptions`
to import nni takes a second (scipy.stats, pandas)        `trial`, but in pods
machines need not prove who they are                      ``machines.js``: by `known_hosts`
the manager is open to machines, thus to everybody        ``machines.js``: they come through its SSH
trials' ports on machines are open to everybody           `machine` and ``loopback.js``
machines are upgraded at every start                      ``machines.js``: nothing is installed
without machines an experiment waits for ever             ``machines.js`` and `launcher` end it
trials outlive a manager that was killed                  ``keeper.js``, on other machines
"""
