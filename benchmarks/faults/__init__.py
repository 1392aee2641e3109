"""Faults on purpose: processes killed and stopped, full disks, clocks set back, at any moment.

In each round of a campaign (`benchmarks.faults.campaign`) something small is started, a fault done
to it at random, and looked at what follows: it ends in time or says why it cannot go on, no process
is left, what was finished is kept, and what resumes ends as if nothing had happened, to the bit.
All that is random in round n depends on the seed and on n alone.

- `parallel`: trainings in parallel by themselves, at any of their epochs;
- `disturbed`: the commands of the product, whole experiments among them, which are in
  `experiments` and `commands`;
- `processes` and `surroundings`: what is done to a process of theirs, or to all that is around.
"""
