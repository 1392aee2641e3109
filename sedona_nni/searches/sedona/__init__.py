"""SEDONA, in the order in which it is best read.

relaxation      the network with a little cut at every boundary
inner_step      one training step of it as a differentiable map, and the adjoint of that map
hypergradient   the validation loss after T steps, differentiated by alpha and beta
weight_memory   moments of training that look-aheads start from
search          the two levels: pre-training, then meta-steps
frank_wolfe     another outer level: over exactly K-1 cuts
perturbation    another choice at the end: by what each is worth
result          what is found

settings        its options
checkpoint      how an interrupted one goes on
watch, kind     how it goes, and what surrounds it in a trial
dual_norm       batch norm of dual numbers, for `inner_step`
release_mode    as the authors' release computes it
release         what the authors published
relaxed_training  the relaxed network, trained to its end
"""
