//! The control plane: sources, the writer, push, the CA service and debug
