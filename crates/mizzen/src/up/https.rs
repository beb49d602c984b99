//! `--https`: a certificate authority of this user's own, made once, and the certificates with which the mesh's gateways serve HTTPS.
//!
//! The authority's key lies in the user's folder of data, as those of other tools of this kind do: people make their browser trust it, and shall not have to
//! at each start. Workloads do not see that folder. A gateway gets a certificate under it as it gets any other: as a Secret of its namespace, by secret discovery.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use mizzen_pki::{Ca, CaLimits, UnixTime};

use super::{
    desired::{self, Objects, Serving},
    gateway::Plan,
    mesh::{Mesh, is_set},
    say,
};

/// The Secret, in a gateway's namespace.
pub(crate) const CREDENTIAL: &str = "mizzen-local-https";
/// Names and addresses that lead to this host, whatever Gateways name.
const LOCAL: [&str; 3] = ["localhost", "127.0.0.1", "::1"];
/// How long a certificate is good for, and when the next one is made. Browsers take none of more than 398 days.
const TTL: Duration = Duration::from_secs(30 * 24 * 3600);
const RENEW: Duration = Duration::from_secs(10 * 24 * 3600);
/// A certificate holds at most so many names.
const MAX_NAMES: usize = 100;

/// Where the authority is kept: `$XDG_DATA_HOME/mizzen/https`, else `~/.local/share/mizzen/https`. `None` for a user without either.
pub(crate) fn folder() -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let data = absolute("XDG_DATA_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/share")));
    data.map(|data| data.join("mizzen/https"))
}

/// The certificate that is to be trusted.
pub(crate) fn root(folder: &Path) -> PathBuf {
    folder.join("root.pem")
}

fn key(folder: &Path) -> PathBuf {
    folder.join("root-key.pem")
}

/// Makes the authority, if there is none yet, and says so.
///
/// # Errors
/// If its folder cannot be had, or holds something else.
pub(crate) fn prepare() -> Result<PathBuf> {
    let folder = folder().context("--https: neither XDG_DATA_HOME nor HOME says where the local certificate authority is to be kept")?;
    if !root(&folder).exists() && !key(&folder).exists() {
        make(&folder).with_context(|| format!("--https: cannot make a certificate authority in {}", folder.display()))?;
        say::good(&format!("a certificate authority of your own is made: {}", root(&folder).display()));
    }
    let ca = load(&folder).context("--https")?;
    if ca.not_after().as_secs() < UnixTime::now().as_secs() + TTL.as_secs() {
        bail!("--https: the certificate authority in {} expires soon: remove the folder, and trust the next one", folder.display());
    }
    Ok(folder)
}

fn make(folder: &Path) -> Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let ca = Ca::self_signed_as("Mizzen's certificate authority of one user", UnixTime::now(), CaLimits::default())?;
    // The key first: without a certificate there is no authority yet.
    for (path, mode, text) in [(key(folder), 0o600, ca.key_pem().expose()), (root(folder), 0o644, ca.chain_pem().as_str())] {
        let mut file =
            fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&path).with_context(|| path.display().to_string())?;
        file.write_all(text.as_bytes())?;
    }
    Ok(())
}

fn load(folder: &Path) -> Result<Ca> {
    let read = |path: PathBuf| fs::read_to_string(&path).with_context(|| path.display().to_string());
    let (key, root) = (read(key(folder))?, read(root(folder))?);
    Ca::from_parts(&key, root.as_bytes(), root.as_bytes(), CaLimits::default())
        .with_context(|| format!("{} holds no certificate authority: remove it, and a new one is made", folder.display()))
}

/// Keeps a certificate in each namespace in which there is a gateway, for the hosts of the Gateways there, until the mesh ends.
pub(crate) async fn keep(mesh: Arc<Mesh>, folder: PathBuf) -> Result<()> {
    let ca = load(&folder)?;
    let mut objects = mesh.objects.subscribe();
    let mut ending = mesh.ending.subscribe();
    loop {
        let mut written: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let renew = tokio::time::sleep(RENEW);
        tokio::pin!(renew);
        loop {
            let wanted = names(&objects.borrow_and_update(), mesh.serving);
            for (namespace, names) in wanted.iter().filter(|(namespace, names)| written.get(*namespace) != Some(*names)) {
                let svid = ca.server_certificate(names, TTL, UnixTime::now())?;
                mesh.told.credential(namespace, CREDENTIAL, &svid).context("cannot write a gateway's certificate")?;
            }
            written
                .keys()
                .filter(|namespace| !wanted.contains_key(*namespace))
                .for_each(|namespace| mesh.told.remove_credential(namespace));
            written = wanted;
            tokio::select! {
                changed = objects.changed() => changed?,
                () = &mut renew => break,
                () = is_set(&mut ending) => return Ok(()),
            }
        }
    }
}

/// The names that the certificate of each namespace has: those that lead here, and those of the Gateways that select a gateway there.
fn names(objects: &Objects, serving: Serving) -> BTreeMap<String, Vec<String>> {
    let mut hosts: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for planned in Plan::new(objects, serving).gateways.values() {
        let gateways = desired::selecting(objects, &planned.namespace, &planned.labels, serving.stay_home);
        let servers = gateways.filter_map(|found| found.also_https(CREDENTIAL)).flat_map(|found| found.servers);
        let own = servers.flat_map(|server| server.hosts).map(|host| host.host.to_string());
        hosts.entry(planned.namespace.clone()).or_default().extend(own);
    }
    let all = |hosts: BTreeSet<String>| {
        let mut all: Vec<String> = LOCAL.map(str::to_owned).into();
        all.extend(hosts.into_iter().filter(|host| host != "*" && !LOCAL.contains(&host.as_str())).take(MAX_NAMES - LOCAL.len()));
        all
    };
    hosts.into_iter().map(|(namespace, hosts)| (namespace, all(hosts))).collect()
}

/// How somebody comes to trust it.
pub(crate) fn advice(root: &Path, address: &str) -> String {
    let root = root.display();
    format!(
        "  trust   curl --cacert {root} {address}\n          sudo cp {root} /usr/local/share/ca-certificates/mizzen.crt && sudo update-ca-certificates\n          \
         certutil -d sql:$HOME/.pki/nssdb -A -t C,, -n mizzen -i {root}   (Chromium)"
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn an_authority_is_made_once() {
        let dir = tempfile::tempdir().expect("a folder");
        let folder = dir.path().join("mizzen/https");
        make(&folder).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&folder), mode(&key(&folder)), mode(&root(&folder))), (0o700, 0o600, 0o644));
        let first = load(&folder).unwrap();
        assert!(make(&folder).is_err(), "what is there is not written over");
        assert_eq!(load(&folder).unwrap().roots(), first.roots());
        fs::write(root(&folder), "nothing").unwrap();
        assert!(load(&folder).unwrap_err().to_string().contains("holds no certificate authority"));
    }

    #[test]
    fn names_of_the_gateways() {
        let text = "
kind: Gateway
apiVersion: networking.istio.io/v1
metadata: {name: a, namespace: shop}
spec: {selector: {istio: ingressgateway}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*', shop.example, './*.shop.example']}]}
---
kind: Gateway
apiVersion: networking.istio.io/v1
metadata: {name: b, namespace: shop}
spec: {selector: {istio: other}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: [other.example]}]}
---
kind: Deployment
apiVersion: apps/v1
metadata: {name: gate, namespace: payments}
spec:
  selector: {matchLabels: {istio: other}}
  template:
    metadata: {labels: {istio: other}, annotations: {inject.istio.io/templates: gateway}}
    spec: {containers: [{name: istio-proxy, image: auto}]}
";
        let objects = crate::up::desired::tests::objects(text);
        let named = |namespace: &str, more: &[&str]| {
            let names = [&LOCAL[..], more].concat().into_iter().map(str::to_owned).collect::<Vec<_>>();
            (namespace.to_owned(), names)
        };
        let own = named("istio-system", &["*.shop.example", "shop.example"]);
        let expected = [own, named("payments", &["other.example"])];
        assert_eq!(names(&objects, Serving::default()), expected.into());
    }
}
