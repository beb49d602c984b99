//! The proxy's configuration at one version: immutable, shared, keyed by resource name.

mod access_log;
mod balancing;
mod cluster;
mod dynamic;
mod endpoint;
mod headers;
mod health;
mod http;
mod listener;
mod matchers;
mod mesh;
mod rbac;
mod rbac_index;
mod route;
mod tls;
mod used;

use std::sync::Arc;

use mizzen_types::Name;

pub use crate::filter::{
    Abort, AbortWith, AlpnOverride, AuthzHeaders, AuthzService, ClaimHeader, Delay, DelayWith, ExtAuthz, ExtAuthzOverride, Fault,
    FilterOverride, HeaderMutation, HttpFilter, HttpFilterKind, JwtAuthn, JwtKeys, JwtProvider, JwtRequirement, JwtRule, LocalRateLimit,
    MessageMutations, Overrides, PeerExchange, PeerMetadata, RateWith, RbacFilter, RemoteJwks, RequestBody, ResponseRate, RouterOptions,
    StatsConfig, TokenBucket, TokenLocation,
};
pub use access_log::{AccessLog, Comparison, LogFilter, LogFormat, LogTarget, LogValue};
pub use balancing::{
    Balancing, Criteria, HashBy, HashCookie, HashPolicy, Hashing, LbPolicy, LbValue, SlowStart, SubsetFallback, SubsetSelector, Subsets,
};
pub use cluster::{
    BindFrom, Breakers, Cluster, Discovery, Dns, DnsFamily, Fallible, H2Options, HttpProtocol, IstioService, Keepalive, RetryLimit,
    Transport, TransportMatch, TransportSelect, UpstreamHttp,
};
pub use dynamic::Dynamic;
pub use endpoint::{Assignment, Endpoint, EndpointAddress, Health, LocalityGroup, Priority, Workload};
pub use headers::{Command, HeaderAction, HeaderOp, HeaderOps, HeaderSource, Mutations, Part, Template};
pub use health::{
    CheckKind, Consecutive, EndpointCheck, FailurePercentage, GrpcCheck, HealthCheck, HttpCheck, Outlier, Pace, SuccessRate, TcpCheck,
};
pub use http::{CertDetails, CodecKind, EscapedSlashes, ForwardClientCert, Hcm, HttpRoutes, PathOptions, ServerHeader, StripPort};
pub use listener::{
    ChainMatch, Direction, FilterChain, Filters, Listener, ListenerAddress, ListenerFilter, NetworkFilter, PortPredicate, SourceType,
    TcpProxy, TcpTarget, Terminal, TransportProtocol, Tunnel,
};
pub use matchers::{Fraction, HeaderMatch, HeaderTest, MetadataMatch, ParamMatch, Regex, StringMatch, StringTest, ValueMatch};
pub use mesh::{MeshHost, MeshIndex};
pub use rbac::{Action as RbacAction, Expr, Policy, Rbac};
pub(crate) use rbac_index::RbacIndex;
pub use route::{
    Action, ClusterChoice, Direct, Elsewhere, Forward, HostRewrite, OwnHost, PathMatch, PathRewrite, Redirect, RedirectPath, RegexRewrite,
    RetryOn, RetryPolicy, Route, RouteConfig, RouteMatch, Target, VirtualHost,
};
pub use tls::{
    CertificateSecret, DownstreamTls, Roots, SecretRef, SecretSource, TlsCommon, TlsVersion, UpstreamTls, Validation, ValidationSecret,
};

pub use used::Used;

/// A content hash of a resource's bytes: equal hashes mean an unchanged resource.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContentHash(pub u128);

/// A map of resources by name. A copy costs nothing and shares what does not change: one entry's change copies a few nodes.
pub type Names<T> = rpds::HashTrieMapSync<Name, Arc<T>>;
