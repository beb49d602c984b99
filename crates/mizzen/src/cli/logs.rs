//! `mizzen logs`: what a workload, its proxy or the control plane has written.

use std::{io::SeekFrom, path::PathBuf, time::Duration};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::LogParams};
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::compat::FuturesAsyncReadCompatExt;

use super::{
    find::Mesh,
    place::{Cluster, PROXY, Place, Where, Workload},
};

/// Arguments of `logs`.
#[derive(Debug, clap::Args)]
pub(crate) struct LogsArgs {
    /// The workload: POD, POD.NAMESPACE, or the name of its deployment; or `mizzend`, the control plane.
    workload: String,
    /// The namespace, if the workload's name does not say it.
    #[arg(short, long)]
    namespace: Option<String>,
    /// The proxy's log (its access log included) instead of the program's.
    #[arg(long)]
    proxy: bool,
    /// Go on with what is written from now on, until Ctrl-C.
    #[arg(short, long)]
    follow: bool,
    /// Only this many lines of the end.
    #[arg(long, value_name = "LINES")]
    tail: Option<usize>,
}

/// By which the control plane is meant, and not a workload.
const CONTROL_PLANE: &str = "mizzend";

/// How often a followed log is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);

pub(crate) async fn run(place: &Where, args: LogsArgs) -> Result<()> {
    match place.find().await? {
        Place::Host(mesh) => of_host(&mesh, &args).await,
        Place::Cluster(cluster) => of_cluster(cluster, &args).await,
    }
}

/// What the API server has of it.
async fn of_cluster(cluster: Cluster, args: &LogsArgs) -> Result<()> {
    let control = args.workload == CONTROL_PLANE && args.namespace.is_none();
    let place = Place::Cluster(cluster);
    let Place::Cluster(cluster) = &place else { bail!("no cluster") };
    let (namespace, name, container) = if control {
        let pod = cluster.control_plane().await?;
        (cluster.namespace.clone(), pod.metadata.name.unwrap_or_default(), None)
    } else {
        match place.pod(&args.workload, args.namespace.as_deref()).await? {
            Workload::Cluster(_, pod) => {
                let container = if args.proxy { Some(PROXY.to_owned()) } else { program(&pod) };
                (pod.metadata.namespace.unwrap_or_default(), pod.metadata.name.unwrap_or_default(), container)
            }
            Workload::Host(_) => bail!("no workload of a cluster"),
        }
    };
    let wanted = LogParams {
        container,
        follow: args.follow,
        tail_lines: args.tail.and_then(|lines| i64::try_from(lines).ok()),
        ..LogParams::default()
    };
    let api: Api<Pod> = Api::namespaced(cluster.client().await?, &namespace);
    let mut log = api.log_stream(&name, &wanted).await.with_context(|| format!("the log of {name}.{namespace}"))?.compat();
    let mut piece = vec![0; 64 << 10];
    loop {
        match log.read(&mut piece).await? {
            0 => return Ok(()),
            read => super::output::print(&String::from_utf8_lossy(&piece[..read]))?,
        }
    }
}

/// The first container that is not the proxy.
fn program(pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    spec.containers.iter().find(|container| container.name != PROXY).map(|container| container.name.clone())
}

async fn of_host(mesh: &Mesh, args: &LogsArgs) -> Result<()> {
    let (path, name) = whose(mesh, args)?;
    let mut file = tokio::fs::File::open(&path).await.with_context(|| match args.proxy {
        true => format!("the proxy of {name} has no log"),
        false => format!("{name} has no log: that of its proxy, which is all that a gateway has, is there with --proxy"),
    })?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).await?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let from = args.tail.map_or(0, |n| lines.len().saturating_sub(n));
    super::output::print(&lines[from..].concat())?;
    if !args.follow {
        return Ok(());
    }
    let mut at = bytes.len() as u64;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        // A log that was cut starts anew.
        if tokio::fs::metadata(&path).await?.len() < at {
            file = tokio::fs::File::open(&path).await?;
            at = 0;
        }
        file.seek(SeekFrom::Start(at)).await?;
        let mut more = Vec::new();
        at += file.read_to_end(&mut more).await? as u64;
        super::output::print(&String::from_utf8_lossy(&more))?;
    }
}

/// The file, and whose it is.
fn whose(mesh: &Mesh, args: &LogsArgs) -> Result<(PathBuf, String)> {
    if args.workload == CONTROL_PLANE && args.namespace.is_none() {
        if args.proxy {
            bail!("the control plane has no proxy; a workload of that name is {CONTROL_PLANE}.NAMESPACE");
        }
        return Ok((mesh.dir.join("mizzend/log"), CONTROL_PLANE.to_owned()));
    }
    let pod = mesh.pod(&args.workload, args.namespace.as_deref())?;
    Ok((pod.dir.join(if args.proxy { "proxy.log" } else { "log" }), pod.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_log() {
        let folder = tempfile::tempdir().unwrap();
        let mesh = Mesh { dir: folder.path().to_owned() };
        for (dir, name) in [("1", "shop.reviews-v1-0"), ("2", "ops.mizzend")] {
            let dir = folder.path().join("pods").join(dir);
            std::fs::create_dir_all(&dir).unwrap();
            std::fs::write(dir.join(super::super::find::POD_FILE), name).unwrap();
        }
        for (workload, namespace, proxy, expected) in [
            ("mizzend", None, false, Some("mizzend/log")),
            ("mizzend", None, true, None),
            ("mizzend.ops", None, false, Some("pods/2/log")),
            ("mizzend", Some("ops"), true, Some("pods/2/proxy.log")),
            ("reviews-v1-0", None, true, Some("pods/1/proxy.log")),
            ("reviews-v1-0.shop", None, false, Some("pods/1/log")),
            ("nobody", None, false, None),
        ] {
            let namespace = namespace.map(str::to_owned);
            let args = LogsArgs { workload: workload.to_owned(), namespace, proxy, follow: false, tail: None };
            let found = whose(&mesh, &args).ok().map(|(path, _)| path);
            assert_eq!(found, expected.map(|path| folder.path().join(path)), "{workload} {proxy}");
        }
    }
}
