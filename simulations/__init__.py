"""The command line and the engines that run the same ServerApp and ClientApp on one machine."""
