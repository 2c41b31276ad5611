"""Pure torch: preprocessing, encoder, heads, inflation, masked autoencoder, checkpoint I/O. Never imports lightning."""
