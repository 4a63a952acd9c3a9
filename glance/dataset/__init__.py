"""The picture and its caption: finds, examines, loads and stages the pair to train on."""
