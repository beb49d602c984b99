//! Istio and core resources from YAML, with positions, defaults and validation
