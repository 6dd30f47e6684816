"""What is trained before a training begins: vocabulary, sizes, first weights, files."""
