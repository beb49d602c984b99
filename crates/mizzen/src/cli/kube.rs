//! A cluster, for verbs that ask it without asking a mesh in it: its client, and its refusals in a line.

use std::time::Duration;

use anyhow::{Context, Result};
use kube::{
    Client, Config,
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

/// Whether the API server says that there is no such thing.
pub(crate) fn is_missing(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}
