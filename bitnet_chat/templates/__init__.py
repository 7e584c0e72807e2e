"""Chat templates: a conversation becomes the text that a model was trained on."""
