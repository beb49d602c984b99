//! Traffic capture: a pure rule plan, applied over netlink
