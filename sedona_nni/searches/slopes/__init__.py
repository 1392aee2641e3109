"""Slopes: what a little of each cut does to a whole training, to first order.

slopes    the training and the way back, leg by leg
result    what that says of every boundary
kind      its options, and what surrounds it in a trial
"""
