"""Training in parallel: a process for each block, on processors, GPUs or hosts.

Process k, a *rank*, builds block k, its optimizer and nothing else. It receives what block k-1 made
of batch n, learns from it, and sends what it makes of it itself to block k+1, which works on batch
n-1 meanwhile:

    rank 0   |  batch n+1 |  batch n+2 |  batch n+3 |
    rank 1   |  batch n   |  batch n+1 |  batch n+2 |
    rank 2   |  batch n-1 |  batch n   |  batch n+1 |

Nothing comes down but the errors of delayed gradients. Labels do not travel: which images batch n
holds, and how they are mixed, follows from the seed and from n. The loop, the methods and the
evaluation are those of one process, and on CPUs the outcome is the same to the bit, if features
travel as they are and each process has as many threads.

    layout       which ranks hold which block, and which rows of a batch each has
    rank_stage   what passes between neighbours, and at the end of an epoch between all
    watch        signs of life, and how one that fails ends all
    rank         what a rank does from its start to its end
    host         this process's place among others; starting the ranks of one host
    launch       training in them, and hearing of it
    feed         what asynchronous learning hands up, which waits for nobody
    rehearsal    what a rank needs for a step, measured before it meets the others
"""
