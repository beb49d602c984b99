//! HTTP through the mesh.
