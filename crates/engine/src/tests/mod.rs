//! Two workers back to back: a mesh without a socket.

mod balancing;
mod below;
mod bounds;
mod calls;
mod ceilings;
mod changes;
mod checks;
mod clients;
mod dynamic;
mod filters;
mod flow;
mod gate;
mod http;
mod life;
mod mesh;
mod outlier;
mod peers;
mod properties;
mod proxied;
mod refusals;
mod responses;
mod tcp;
mod tokens;
mod upgrades;
