#!/bin/sh
# sbatch experiments/clusters/slurm_steps.sh
# The steps of an experiment on one GPU, also without NNI: its search, and a training of what was
# found. Both go on where they were interrupted, and what is finished is not repeated.
#SBATCH --job-name=sedona-nni
#SBATCH --gres=gpu:1
#SBATCH --time=04:00:00
#SBATCH --requeue
set -e
experiment=${EXPERIMENT:-sedona_vgg19}
directory=${DIRECTORY:-$SCRATCH/vgg19}
device=${DEVICE:-cuda}
sedona-nni search "$experiment" --directory "$directory/search" --device "$device"
sedona-nni train "$experiment" --decoupling "$directory/search/search-result.json" \
    --num-blocks "${BLOCKS:-4}" --directory "$directory/trained" --device "$device"
