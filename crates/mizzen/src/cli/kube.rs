//! A cluster, for verbs that ask it without asking a mesh in it: its client, and its refusals in a line.

use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1 as k8s;
use kube::{
    Api, Client, Config,
    api::ListParams,
    config::{KubeConfigOptions, Kubeconfig},
};

use super::place::Where;

/// How long the API server is waited for, for one answer.
const ANSWER: Duration = Duration::from_secs(30);

/// A client of the cluster that is meant: that of `--kubeconfig`, else that of `KUBECONFIG` or `~/.kube/config`, else that in which this runs as a pod.
///
/// # Errors
/// If the file cannot be read, has no such context, or names credentials that cannot be had. The cluster itself is not asked.
pub(crate) async fn client(place: &Where) -> Result<Client> {
    let mut config = config(place).await?;
    config.connect_timeout = Some(ANSWER);
    config.read_timeout = Some(ANSWER);
    Client::try_from(config).context("no client for the cluster")
}

async fn config(place: &Where) -> Result<Config> {
    let options = KubeConfigOptions { context: place.context.clone(), ..KubeConfigOptions::default() };
    if let Some(path) = &place.kubeconfig {
        let file = Kubeconfig::read_from(path).with_context(|| format!("--kubeconfig {}", path.display()))?;
        return Config::from_custom_kubeconfig(file, &options).await.with_context(|| path.display().to_string());
    }
    if let Some(context) = &place.context {
        return Config::from_kubeconfig(&options).await.with_context(|| format!("--context {context}"));
    }
    Config::infer().await.context("no cluster is known: --kubeconfig FILE names one, or the variable KUBECONFIG")
}

/// One line of what the API server has refused, or why it could not be asked.
pub(crate) fn say(error: kube::Error) -> anyhow::Error {
    anyhow::anyhow!("{}", mizzen_control::cluster_error(&error))
}

/// What somebody should know of a cluster in which there is IPv6: by what it is seen, and what follows.
///
/// Of two families services have one unless they ask for both, so that it is the nodes' and the pods' addresses that tell.
///
/// # Errors
/// If the API server does not answer.
pub(crate) async fn ipv6(client: &Client) -> Result<Option<String>> {
    match seen_of_ipv6(client).await {
        Ok(seen) => Ok(seen.map(|seen| {
            format!(
                "there is IPv6 in this cluster ({seen}): it is not captured, so that calls over it reach programs past their proxies, without mutual \
                 TLS and whatever policies say"
            )
        })),
        Err(kube::Error::Api(status)) if status.code == 403 => {
            Ok(Some(format!("whether there is IPv6 in this cluster, which is not captured, cannot be told: {}", status.message)))
        }
        Err(error) => Err(say(error)),
    }
}

async fn seen_of_ipv6(client: &Client) -> Result<Option<String>, kube::Error> {
    let is = |text: &String| text.contains(':');
    let some = ListParams::default().limit(SOME);
    for node in Api::<k8s::Node>::all(client.clone()).list(&some).await?.items {
        let ranges = node.spec.unwrap_or_default().pod_cidrs.unwrap_or_default();
        if let Some(range) = ranges.into_iter().find(is) {
            return Ok(Some(format!("node {} gives its pods addresses of {range}", node.metadata.name.unwrap_or_default())));
        }
    }
    for pod in Api::<k8s::Pod>::all(client.clone()).list(&some).await?.items {
        let addresses = pod.status.unwrap_or_default().pod_ips.unwrap_or_default();
        if let Some(address) = addresses.into_iter().map(|ip| ip.ip).find(is) {
            let (namespace, name) = (pod.metadata.namespace.unwrap_or_default(), pod.metadata.name.unwrap_or_default());
            return Ok(Some(format!("pod {namespace}/{name} has the address {address}")));
        }
    }
    let service = Api::<k8s::Service>::namespaced(client.clone(), "default").get_opt("kubernetes").await?;
    let families = service.and_then(|service| service.spec?.ip_families).unwrap_or_default();
    Ok(families.contains(&"IPv6".to_owned()).then(|| "service default/kubernetes has an address of IPv6".to_owned()))
}

/// So many objects are looked at, of nodes and pods that are alike.
const SOME: u32 = 500;

/// Whether the API server says that there is no such thing.
pub(crate) fn is_missing(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}
