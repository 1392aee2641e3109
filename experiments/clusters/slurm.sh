#!/bin/sh
# sbatch experiments/clusters/slurm.sh
# A whole experiment in one job, without NNI's manager and without an open port. Slurm interrupts it
# two minutes before its time is up; the same command goes on in the same folder, so submit it again.
#SBATCH --job-name=sedona-nni
#SBATCH --gres=gpu:4
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --signal=B:INT@120
exec sedona-nni run "${EXPERIMENT:-sedona_vgg19}" --directory "${DIRECTORY:-$SCRATCH/vgg19}"
