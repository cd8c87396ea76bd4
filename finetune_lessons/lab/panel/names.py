"""The hyperparameters that panels know by name, in words."""

# name -> (label, unit, explanation)
KNOWN = {
    "lr": ("learning rate", "", "Size of each update: too large diverges, too small crawls."),
    "batch_size": ("batch size", "texts", "Texts in each update: more is smoother, and needs more memory."),
    "grad_accum": ("accumulation", "batches", "Batches whose gradients are added up before one update."),
    "epochs": ("epochs", "passes", "How often the run sees every training text."),
    "warmup": ("warm-up", "share of steps", "The learning rate climbs from zero during this part of the run."),
    "schedule": ("schedule", "", "How the learning rate falls after the warm-up."),
    "weight_decay": ("weight decay", "", "Pulls weights towards zero at each step."),
    "max_grad_norm": ("gradient clip", "", "Longer gradients are shortened to this norm."),
    "label_smoothing": ("label smoothing", "", "Share of the target that is spread over all classes."),
    "dropout": ("dropout", "", "Share of activations set to zero while training."),
    "freeze": ("freeze", "", "Train the head only; the pretrained body stays as it is."),
    "seed": ("seed", "", "Start of the random numbers: head, data order, dropout."),
    "n_train": ("training texts", "texts", "How many labelled texts the run learns from."),
    "max_length": ("max length", "tokens", "Longer texts are cut here."),
    "r": ("rank r", "", "Rank of the update: more can express more, and trains more parameters."),
    "lora_alpha": ("alpha", "", "Strength of the update: it is scaled by alpha / r."),
    "bottleneck_size": ("bottleneck size", "units", "Width of the adapter's hidden layer."),
    "num_virtual_tokens": ("virtual tokens", "tokens", "Learned vectors that stand before the text."),
    "temperature": ("temperature", "", "Divides the logits: above 1 softens the probabilities, below 1 sharpens them."),
    "alpha": ("alpha", "", "Weight of one part of the loss against the other."),
    "precision": ("precision", "", "Number format of the computation."),
}
