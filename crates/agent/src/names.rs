//! The names that the mesh knows.

use std::collections::HashMap;
use std::net::IpAddr;

use mizzen_protos::nds;

/// The control plane's name table, ready for look-ups.
#[derive(Clone, Debug, Default)]
pub struct NameTable {
    exact: HashMap<String, Vec<IpAddr>>,
    /// By what follows `*.`.
    wildcards: HashMap<String, Vec<IpAddr>>,
    /// `name.namespace`, `name.namespace.svc`, and `name` in the asker's own namespace. The resolver's search list makes these of the full name, too; a
    /// program that resolves without one is helped.
    short: HashMap<String, String>,
    local_domains: Vec<String>,
    known: bool,
}

/// What the mesh says about a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer<'a> {
    /// It has these addresses.
    Addresses(&'a [IpAddr]),
    /// It would be the mesh's, but there is no such name.
    Absent,
    /// It would be the mesh's, but the table has not come yet.
    Unknown,
    /// It is not the mesh's: ask somebody else.
    Foreign,
}

impl NameTable {
    /// Before the first table has come.
    pub fn empty(local_domains: &[String]) -> Self {
        NameTable { local_domains: local_domains.iter().map(|d| canonical(d)).collect(), ..NameTable::default() }
    }

    /// From the control plane's message, for a workload in `namespace`. Entries that are no addresses are left out.
    pub fn new(table: &nds::NameTable, namespace: &str, local_domains: &[String]) -> Self {
        let mut all = NameTable { known: true, ..NameTable::empty(local_domains) };
        for (name, info) in &table.table {
            let name = canonical(name);
            let ips: Vec<IpAddr> = info.ips.iter().filter_map(|ip| ip.parse().ok()).collect();
            if ips.is_empty() && !all.is_local(&name) {
                continue;
            }
            if let Some(suffix) = name.strip_prefix("*.") {
                all.wildcards.insert(suffix.to_owned(), ips);
                continue;
            }
            if !info.shortname.is_empty() && !info.namespace.is_empty() {
                let (short, ns) = (canonical(&info.shortname), canonical(&info.namespace));
                // Only of a service's own full name, not of its replicas' below it.
                if name.starts_with(&format!("{short}.{ns}.svc.")) {
                    all.short.insert(format!("{short}.{ns}"), name.clone());
                    all.short.insert(format!("{short}.{ns}.svc"), name.clone());
                    if ns == namespace {
                        all.short.insert(short, name.clone());
                    }
                }
            }
            all.exact.insert(name, ips);
        }
        all
    }

    /// What the mesh says about a name; case and a final dot do not matter.
    pub fn find(&self, name: &str) -> Answer<'_> {
        let name = canonical(name);
        let exact = self.exact.get(&name).or_else(|| self.exact.get(self.short.get(&name)?));
        if let Some(ips) = exact.or_else(|| self.wildcard(&name)) {
            return Answer::Addresses(ips);
        }
        match (self.is_local(&name), self.known) {
            (true, true) => Answer::Absent,
            (true, false) => Answer::Unknown,
            (false, _) => Answer::Foreign,
        }
    }

    /// Whether a table has come.
    pub fn is_known(&self) -> bool {
        self.known
    }

    /// How many names there are.
    pub fn len(&self) -> usize {
        self.exact.len() + self.wildcards.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether a name belongs to the mesh's own domains.
    pub fn is_local(&self, name: &str) -> bool {
        self.local_domains
            .iter()
            .any(|domain| name.strip_suffix(domain.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')))
    }

    /// The longest wildcard that covers the name.
    fn wildcard(&self, name: &str) -> Option<&Vec<IpAddr>> {
        if self.wildcards.is_empty() {
            return None;
        }
        name.match_indices('.').find_map(|(dot, _)| self.wildcards.get(name.get(dot + 1..)?))
    }
}

fn canonical(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> nds::NameTable {
        let info = |ips: &[&str], short: &str, namespace: &str| nds::name_table::NameInfo {
            ips: ips.iter().map(|i| (*i).to_owned()).collect(),
            registry: if short.is_empty() { "External" } else { "Kubernetes" }.to_owned(),
            shortname: short.to_owned(),
            namespace: namespace.to_owned(),
        };
        let table = [
            ("reviews.shop.svc.cluster.local", info(&["10.96.0.1"], "reviews", "shop")),
            ("db-0.db.shop.svc.cluster.local", info(&["10.244.0.9"], "db", "shop")),
            ("ratings.other.svc.cluster.local", info(&["10.96.0.2", "fd00::2"], "ratings", "other")),
            ("gone.shop.svc.cluster.local", info(&[], "gone", "shop")),
            ("api.example.com", info(&["240.0.0.1"], "", "")),
            ("empty.example.com", info(&[], "", "")),
            ("bad.example.com", info(&["x"], "", "")),
            ("*.wild.example", info(&["240.0.0.2"], "", "")),
            ("*.deep.wild.example", info(&["240.0.0.3"], "", "")),
        ];
        nds::NameTable { table: table.into_iter().map(|(k, v)| (k.to_owned(), v)).collect() }
    }

    fn check(table: &NameTable, name: &str) -> String {
        match table.find(name) {
            Answer::Addresses(ips) => ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn finds() {
        let names = NameTable::new(&table(), "shop", &["cluster.local".to_owned()]);
        for (name, expected) in [
            ("reviews.shop.svc.cluster.local", "10.96.0.1"),
            ("Reviews.Shop.svc.cluster.local.", "10.96.0.1"),
            ("reviews.shop.svc", "10.96.0.1"),
            ("reviews.shop", "10.96.0.1"),
            ("reviews", "10.96.0.1"),
            ("ratings", "Foreign"),
            ("ratings.other", "10.96.0.2 fd00::2"),
            ("db-0.db.shop.svc.cluster.local", "10.244.0.9"),
            ("db.shop", "Foreign"),
            ("db.shop.svc.cluster.local", "Absent"),
            ("gone.shop.svc.cluster.local", ""),
            ("reviews.shop.shop.svc.cluster.local", "Absent"),
            ("cluster.local", "Absent"),
            ("mycluster.local", "Foreign"),
            ("api.example.com", "240.0.0.1"),
            ("api.example.com.shop.svc.cluster.local", "Absent"),
            ("empty.example.com", "Foreign"),
            ("bad.example.com", "Foreign"),
            ("a.wild.example", "240.0.0.2"),
            ("a.b.wild.example", "240.0.0.2"),
            ("a.deep.wild.example", "240.0.0.3"),
            ("wild.example", "Foreign"),
            ("", "Foreign"),
        ] {
            assert_eq!(check(&names, name), expected, "{name}");
        }
    }

    #[test]
    fn before_the_first_table() {
        let names = NameTable::empty(&["cluster.local".to_owned()]);
        assert_eq!(check(&names, "reviews.shop.svc.cluster.local"), "Unknown");
        assert_eq!(check(&names, "example.com"), "Foreign");
    }
}
