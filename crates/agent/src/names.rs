//! The names that the mesh knows.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use mizzen_protos::{index, nds};

/// What the control plane says of names, ready for look-ups: its name table, or the index of hosts, of which each entry changes alone.
#[derive(Debug, Default)]
pub struct NameTable {
    exact: HashMap<String, Entry>,
    /// By what follows `*.`.
    wildcards: HashMap<String, Entry>,
    namespace: String,
    local_domains: Vec<String>,
    known: bool,
}

#[derive(Debug)]
struct Entry {
    ips: Box<[IpAddr]>,
    /// It is also `NAME.NAMESPACE`, `NAME.NAMESPACE.svc`, and `NAME` within its own namespace. The resolver's search list makes the full name of these,
    /// too; a program that resolves without one is helped.
    short: bool,
    /// Of the index: then without addresses it is no name.
    indexed: bool,
    /// The name that it stands for: where it has no addresses itself, that one's are its own.
    alias_of: Option<Box<str>>,
}

impl Entry {
    fn is_name(&self) -> bool {
        !self.indexed || !self.ips.is_empty() || self.alias_of.is_some()
    }
}

/// What the mesh says about a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer<'a> {
    /// It has these addresses.
    Addresses(&'a [IpAddr]),
    /// It stands for another one, which is not the mesh's: ask somebody else about that one.
    Alias(&'a str),
    /// It would be the mesh's, but there is no such name.
    Absent,
    /// It would be the mesh's, but the names have not come yet.
    Unknown,
    /// It is not the mesh's: ask somebody else.
    Foreign,
}

impl NameTable {
    /// Before anything has come, for a workload in `namespace`.
    pub fn empty(namespace: &str, local_domains: &[String]) -> Self {
        let local_domains = local_domains.iter().map(|d| canonical(d)).collect();
        NameTable { namespace: canonical(namespace), local_domains, ..NameTable::default() }
    }

    /// Takes the control plane's table in place of all that was known. Entries that are no addresses are left out.
    pub fn replace(&mut self, table: &nds::NameTable) {
        self.clear();
        self.known = true;
        for (name, info) in &table.table {
            let name = canonical(name);
            let ips: Box<[IpAddr]> = info.ips.iter().filter_map(|ip| ip.parse().ok()).collect();
            let alias_of = alias(&info.alias_of);
            if ips.is_empty() && alias_of.is_none() && !self.is_local(&name) {
                continue;
            }
            // Only a service's own full name has short ones, not its replicas' below it.
            let own = format!("{}.{}.svc.", canonical(&info.shortname), canonical(&info.namespace));
            let short = !info.shortname.is_empty() && !info.namespace.is_empty() && name.starts_with(&own);
            self.insert(name, Entry { ips, short, indexed: false, alias_of });
        }
    }

    /// Takes one entry of the index. Only that one is touched.
    pub fn set(&mut self, host: &str, entry: &index::Host) {
        self.known = true;
        // Ranges are nothing that could be dialled.
        let ips = entry.addresses.iter().filter_map(|bytes| {
            let v4 = <[u8; 4]>::try_from(bytes.as_slice()).map(|b| IpAddr::from(Ipv4Addr::from(b)));
            v4.or_else(|_| <[u8; 16]>::try_from(bytes.as_slice()).map(|b| IpAddr::from(Ipv6Addr::from(b)))).ok()
        });
        let alias_of = alias(&entry.alias_of);
        self.insert(canonical(host), Entry { ips: ips.collect(), short: entry.kubernetes, indexed: true, alias_of });
    }

    /// Removes one entry of the index.
    pub fn remove(&mut self, host: &str) {
        let host = canonical(host);
        match host.strip_prefix("*.") {
            Some(suffix) => self.wildcards.remove(suffix),
            None => self.exact.remove(&host),
        };
    }

    /// From now on names are of the index: what is not of it, or is not among `hosts`, is gone.
    pub fn keep(&mut self, hosts: &HashSet<String>) {
        self.known = true;
        self.exact.retain(|host, entry| entry.indexed && hosts.contains(host));
        self.wildcards.retain(|suffix, entry| entry.indexed && hosts.contains(&format!("*.{suffix}")));
    }

    /// Whether the index has this entry, with addresses or without.
    pub fn has(&self, host: &str) -> bool {
        let host = canonical(host);
        let entry = match host.strip_prefix("*.") {
            Some(suffix) => self.wildcards.get(suffix),
            None => self.exact.get(&host),
        };
        entry.is_some_and(|entry| entry.indexed)
    }

    /// What the mesh says about a name; case and a final dot do not matter.
    pub fn find(&self, name: &str) -> Answer<'_> {
        let name = canonical(name);
        if let Some(entry) = self.entry(&name) {
            return match &entry.alias_of {
                Some(target) if entry.ips.is_empty() => self.alias(target),
                _ => Answer::Addresses(&entry.ips),
            };
        }
        self.without(&name)
    }

    fn entry(&self, name: &str) -> Option<&Entry> {
        let exact = self.exact.get(name).filter(|entry| entry.is_name());
        exact.or_else(|| self.short(name)).or_else(|| self.wildcard(name))
    }

    /// What a name stands for that another one names. The control plane names the end of a chain: who is an alias again has no addresses.
    fn alias<'a>(&'a self, target: &'a str) -> Answer<'a> {
        match self.entry(target) {
            Some(entry) => Answer::Addresses(&entry.ips),
            None => match self.without(target) {
                Answer::Foreign => Answer::Alias(target),
                other => other,
            },
        }
    }

    /// What the mesh says about a name that it does not have.
    fn without(&self, name: &str) -> Answer<'_> {
        match (self.is_local(name), self.known) {
            (true, true) => Answer::Absent,
            (true, false) => Answer::Unknown,
            (false, _) => Answer::Foreign,
        }
    }

    /// Whether names have come.
    pub fn is_known(&self) -> bool {
        self.known
    }

    /// How many names there are.
    pub fn len(&self) -> usize {
        self.exact.values().chain(self.wildcards.values()).filter(|entry| entry.is_name()).count()
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

    fn clear(&mut self) {
        (self.exact, self.wildcards) = (HashMap::new(), HashMap::new());
    }

    fn insert(&mut self, name: String, entry: Entry) {
        match name.strip_prefix("*.") {
            Some(suffix) => self.wildcards.insert(suffix.to_owned(), entry),
            None => self.exact.insert(name, entry),
        };
    }

    /// The service of which this is a short name.
    fn short(&self, name: &str) -> Option<&Entry> {
        let mut labels = name.split('.');
        let (service, namespace) = match (labels.next()?, labels.next(), labels.next(), labels.next()) {
            (service, None, None, None) => (service, self.namespace.as_str()),
            (service, Some(namespace), None | Some("svc"), None) => (service, namespace),
            _ => return None,
        };
        let full = |domain: &String| self.exact.get(&format!("{service}.{namespace}.svc.{domain}"));
        self.local_domains.iter().filter_map(full).find(|entry| entry.short && entry.is_name())
    }

    /// The longest wildcard that covers the name.
    fn wildcard(&self, name: &str) -> Option<&Entry> {
        if self.wildcards.is_empty() {
            return None;
        }
        let covers = |(dot, _): (usize, &str)| self.wildcards.get(name.get(dot + 1..)?).filter(|entry| entry.is_name());
        name.match_indices('.').find_map(covers)
    }
}

fn alias(target: &str) -> Option<Box<str>> {
    (!target.is_empty()).then(|| canonical(target).into())
}

/// As names are compared: lower case, without the final dot.
pub(crate) fn canonical(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Host, addresses, and the Kubernetes Service's name and namespace.
    type Row = (&'static str, &'static [&'static str], &'static str, &'static str);

    const ROWS: [Row; 9] = [
        ("reviews.shop.svc.cluster.local", &["10.96.0.1"], "reviews", "shop"),
        ("db-0.db.shop.svc.cluster.local", &["10.244.0.9"], "db", "shop"),
        ("ratings.other.svc.cluster.local", &["10.96.0.2", "fd00::2"], "ratings", "other"),
        ("gone.shop.svc.cluster.local", &[], "gone", "shop"),
        ("api.example.com", &["240.0.0.1"], "", ""),
        ("empty.example.com", &[], "", ""),
        ("bad.example.com", &["x"], "", ""),
        ("*.wild.example", &["240.0.0.2"], "", ""),
        ("*.deep.wild.example", &["240.0.0.3"], "", ""),
    ];

    fn empty() -> NameTable {
        NameTable::empty("shop", &["cluster.local".to_owned()])
    }

    fn of_table() -> NameTable {
        let info = |(_, ips, short, namespace): &Row| nds::name_table::NameInfo {
            ips: ips.iter().map(|i| (*i).to_owned()).collect(),
            registry: if short.is_empty() { "External" } else { "Kubernetes" }.to_owned(),
            shortname: (*short).to_owned(),
            namespace: (*namespace).to_owned(),
            ..Default::default()
        };
        let mut names = empty();
        names.replace(&nds::NameTable { table: ROWS.iter().map(|row| (row.0.to_owned(), info(row))).collect() });
        names
    }

    fn host(ips: &[&str], kubernetes: bool) -> index::Host {
        let bytes = |ip: &&str| match ip.parse() {
            Ok(IpAddr::V4(ip)) => ip.octets().to_vec(),
            Ok(IpAddr::V6(ip)) => ip.octets().to_vec(),
            // A range.
            Err(_) => vec![10, 0, 0, 0, 8],
        };
        index::Host { addresses: ips.iter().map(bytes).collect(), kubernetes, ..Default::default() }
    }

    fn of_index() -> NameTable {
        let mut names = empty();
        for (name, ips, short, _) in ROWS {
            names.set(name, &host(ips, !short.is_empty() && !name.starts_with("db-0")));
        }
        names
    }

    fn check(table: &NameTable, name: &str) -> String {
        match table.find(name) {
            Answer::Addresses(ips) => ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn finds() {
        let (table, index) = (of_table(), of_index());
        for (name, expected) in [
            ("reviews.shop.svc.cluster.local", "10.96.0.1"),
            ("Reviews.Shop.svc.cluster.local.", "10.96.0.1"),
            ("reviews.shop.svc", "10.96.0.1"),
            ("reviews.shop.other", "Foreign"),
            ("reviews.shop", "10.96.0.1"),
            ("reviews", "10.96.0.1"),
            ("ratings", "Foreign"),
            ("ratings.other", "10.96.0.2 fd00::2"),
            ("db-0.db.shop.svc.cluster.local", "10.244.0.9"),
            ("db-0.db.shop", "Foreign"),
            ("db.shop", "Foreign"),
            ("db.shop.svc.cluster.local", "Absent"),
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
            assert_eq!(check(&table, name), expected, "{name} by the table");
            assert_eq!(check(&index, name), expected, "{name} by the index");
        }
        // Mizzen's own table has no entry without addresses, and the index says the same as that one.
        assert_eq!(check(&table, "gone.shop.svc.cluster.local"), "");
        assert_eq!(check(&index, "gone.shop.svc.cluster.local"), "Absent");
        assert_eq!((table.len(), index.len()), (7, 6));
    }

    #[test]
    fn other_names() {
        let (mut table, mut index) = (of_table(), of_index());
        for (host, target) in [
            ("opinions.shop.svc.cluster.local", "Reviews.shop.svc.cluster.local"),
            ("mail.shop.svc.cluster.local", "mail.example.net"),
            ("lost.shop.svc.cluster.local", "nobody.shop.svc.cluster.local"),
            ("round.shop.svc.cluster.local", "round.shop.svc.cluster.local"),
        ] {
            let entry = index::Host { alias_of: target.to_owned(), kubernetes: true, ..Default::default() };
            index.set(host, &entry);
            // As the table says it: with the addresses, where there are some.
            let name = host.split('.').next().unwrap().to_owned();
            let ips = if name == "opinions" { vec!["10.96.0.1".to_owned()] } else { Vec::new() };
            let info = nds::name_table::NameInfo {
                ips,
                shortname: name,
                namespace: "shop".into(),
                alias_of: target.to_owned(),
                ..Default::default()
            };
            let mut one = empty();
            one.replace(&nds::NameTable { table: [(host.to_owned(), info)].into() });
            table.exact.extend(one.exact);
        }
        for (name, expected) in [
            ("opinions", "10.96.0.1"),
            ("opinions.shop.svc.cluster.local", "10.96.0.1"),
            ("mail.shop", "Alias(\"mail.example.net\")"),
            ("mail", "Alias(\"mail.example.net\")"),
            ("lost", "Absent"),
            ("round", ""),
        ] {
            assert_eq!(check(&index, name), expected, "{name} by the index");
            assert_eq!(check(&table, name), expected, "{name} by the table");
        }
        index.remove("mail.shop.svc.cluster.local");
        assert_eq!(check(&index, "mail.shop.svc.cluster.local"), "Absent");
    }

    #[test]
    fn before_anything_has_come() {
        let names = empty();
        assert_eq!(check(&names, "reviews.shop.svc.cluster.local"), "Unknown");
        assert_eq!(check(&names, "example.com"), "Foreign");
        assert!(!names.is_known());
    }

    #[test]
    fn entries_come_and_go() {
        let mut names = of_index();
        for gone in ["Reviews.shop.svc.cluster.local", "*.deep.wild.example", "nobody.example"] {
            names.remove(gone);
        }
        for (name, expected) in [
            ("reviews.shop.svc.cluster.local", "Absent"),
            ("reviews", "Foreign"),
            ("a.deep.wild.example", "240.0.0.2"),
            ("api.example.com", "240.0.0.1"),
        ] {
            assert_eq!(check(&names, name), expected, "{name}");
        }
        names.set("api.example.com", &host(&[], false));
        assert_eq!((check(&names, "api.example.com").as_str(), names.has("api.example.com")), ("Foreign", true));
        // A wildcard without addresses hides no shorter one.
        names.set("*.deep.wild.example", &host(&[], false));
        assert_eq!(check(&names, "a.deep.wild.example"), "240.0.0.2");
        names.keep(&["api.example.com", "*.wild.example", "nobody.example"].map(str::to_owned).into());
        assert_eq!((names.len(), names.has("api.example.com"), names.has("ratings.other.svc.cluster.local")), (1, true, false));
        // What is of the table is not of the index.
        let mut names = of_table();
        assert!(!names.has("api.example.com"));
        names.keep(&["api.example.com".to_owned()].into());
        assert!(names.is_empty() && names.is_known());
        // And a table leaves nothing of the index.
        let mut names = of_index();
        names.replace(&nds::NameTable::default());
        assert!(names.is_empty() && !names.has("api.example.com"));
    }

    /// One entry's change among thousands moves no other: all stay where they are in memory.
    #[test]
    fn one_change_costs_one_entry() {
        let mut names = empty();
        let name = |n: usize| format!("s{n}.shop.svc.cluster.local");
        let ip = |n: usize| Ipv4Addr::from(0x0a60_0000 + u32::try_from(n).unwrap()).to_string();
        (0..5000).for_each(|n| names.set(&name(n), &host(&[&ip(n)], true)));
        let place = |names: &NameTable, n: usize| match names.find(&name(n)) {
            Answer::Addresses(ips) => ips.as_ptr() as usize,
            other => panic!("{other:?}"),
        };
        let before: Vec<usize> = (0..5000).map(|n| place(&names, n)).collect();
        names.set(&name(7), &host(&["10.0.0.1"], true));
        let moved: Vec<usize> = (0..5000).filter(|n| place(&names, *n) != before[*n]).collect();
        assert_eq!((moved, check(&names, "s7").as_str()), (vec![7], "10.0.0.1"));
        names.remove(&name(7));
        assert_eq!((check(&names, &name(7)).as_str(), names.len()), ("Absent", 4999));
    }
}
