//! Helpers for the end-to-end tests of package mizzen
