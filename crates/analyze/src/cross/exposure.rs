//! What a gateway opens wider than it seems.

use crate::{Cx, Index, code, facts::Of};

pub(crate) fn look(cx: &Cx<'_>) {
    let Of::Gateway(gateway) = &cx.entry.facts.of else { return };
    for (at, server) in gateway.servers.iter().enumerate() {
        for (number, host) in server.hosts.iter().enumerate().filter(|(_, host)| matches!(&***host, "*" | "*/*")) {
            let path = format!("spec.servers[{at}].hosts[{number}]");
            if matches!(&*server.protocol, "HTTPS" | "TLS" | "GRPC-TLS") || !server.tls_mode.is_empty() {
                let text = format!(
                    "\"{host}\" offers the certificate of port {} for any host that a client names: write the hosts that it is for",
                    server.port
                );
                cx.say(&code::MZ0101, path, text);
                continue;
            }
            let (namespace, name) = (&cx.entry.id.namespace, &cx.entry.id.name);
            let whole = format!("{namespace}/{name}");
            let guest = cx.list(Index::Bound, &whole).find(|entry| entry.id.namespace != *namespace);
            if let Some(guest) = guest {
                let text = format!(
                    "\"{host}\" lets any namespace take any host of port {}, as {} does: write NAMESPACE/HOST",
                    server.port, guest.id
                );
                cx.say(&code::MZ0101, path, text);
            }
        }
    }
}
