//! What the mesh's own objects in a cluster are called, by Istio's names: for the control plane, and for whoever installs it.

/// The control plane's Deployment, its Service and its account.
pub const CONTROL_PLANE: &str = "istiod";
/// The configuration of injection, and the ConfigMap with its values (key [`VALUES`]).
pub const INJECTOR: &str = "istio-sidecar-injector";
/// The key of the values in ConfigMap [`INJECTOR`].
pub const VALUES: &str = "values";
/// The configuration of validation; `-` and the control plane's namespace follow.
pub const VALIDATOR: &str = "istio-validator";
/// The ConfigMap with MeshConfig (key [`MESH`]) in the control plane's namespace.
pub const SETTINGS: &str = "istio";
/// The key of MeshConfig in ConfigMap [`SETTINGS`].
pub const MESH: &str = "mesh";
/// The ConfigMap with the root certificate (key [`ROOT_KEY`]) in every namespace.
pub const ROOT: &str = "istio-ca-root-cert";
/// The key of the root certificate in ConfigMap [`ROOT`], and in secret [`PLUGGED_IN`].
pub const ROOT_KEY: &str = "root-cert.pem";
/// The secret with a CA that somebody has brought.
pub const PLUGGED_IN: &str = "cacerts";
/// The secret with a CA of the control plane's own.
pub const SELF_SIGNED: &str = "istio-ca-secret";
/// The Lease of the one among several control planes that writes into the cluster, in their namespace.
pub const LEASE: &str = "istio-leader";
/// Where the control plane's sockets are in its pod.
pub const SOCKETS: &str = "/run/mizzen";
/// That at which it answers questions about itself, and takes changes.
pub const DEBUG_SOCKET: &str = "/run/mizzen/debug.sock";
/// The role that must allow what the control plane reads of the whole cluster.
pub const CLUSTER_ROLE: &str = "istiod-clusterrole-istio-system";
/// The role that must allow taking a taint from nodes, where that is asked for.
pub const UNTAINT_ROLE: &str = "istiod-untaint-istio-system";
/// The taint of nodes that cannot capture pods yet, by Istio's name.
pub const NOT_READY: &str = "cni.istio.io/not-ready";
