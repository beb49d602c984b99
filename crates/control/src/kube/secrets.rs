//! Secrets that gateways serve with: each is watched by its name in the namespace of the gateway that asks for it, and no others are read.
//!
//! A gateway gets them if its account may list the Secrets of its namespace, as Istio asks it (SubjectAccessReview); or if it may `serve` them, a verb that
//! the API server knows of no request: whoever has it alone can read no Secret, and gets from here those that Gateways name.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::{StreamExt, pin_mut};
use k8s_openapi::api::{
    authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
    core::v1 as k8s,
};
use kube::{
    Api, Client,
    api::PostParams,
    runtime::{WatchStreamExt, watcher},
};
use mizzen_api::{Key, Object, Pos, Problem, core::Secret};
use tokio::{
    sync::mpsc,
    task::{AbortHandle, JoinSet},
    time::MissedTickBehavior,
};

use super::watch::{AGAIN, Sink, Trouble, trouble, words};
use crate::{
    credentials::{Account, Credentials, Wanted},
    names::CLUSTER_ROLE,
    source::Event,
};

/// So often it is asked again whether an account may have them: who may not any more keeps none longer than that. Istio's time.
const RECHECK: Duration = Duration::from_secs(60);
/// How long the API server may take to say so.
const PATIENCE: Duration = Duration::from_secs(10);
/// What an account must be allowed, one of them.
const VERBS: [&str; 2] = ["list", "serve"];
/// The role that lets the control plane read Secrets, where it is bound.
const ROLE: &str = "istiod-gateway-credentials-istio-system";

/// Looks up what is wanted, and keeps it current. Never ends while anybody may want something.
pub(crate) async fn serve(client: Client, credentials: Arc<Credentials>, wanted: Option<mpsc::UnboundedReceiver<Wanted>>, sink: Sink) {
    // Nothing is there until it is asked for.
    if !sink.send(vec![Event::Init, Event::InitDone]) {
        return;
    }
    // There is one that asks, and one that looks up.
    let Some(mut wanted) = wanted else { return std::future::pending().await };
    let (mut watches, mut tasks) = (BTreeMap::<Key, AbortHandle>::new(), JoinSet::new());
    let mut recheck = tokio::time::interval(RECHECK);
    recheck.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            asked = wanted.recv() => match asked {
                Some(Wanted::Account(account)) => drop(tasks.spawn(review(client.clone(), credentials.clone(), account))),
                Some(Wanted::Secret(key)) => {
                    let watch = tasks.spawn(follow(client.clone(), credentials.clone(), key.clone(), sink.clone()));
                    if let Some(old) = watches.insert(key, watch) {
                        old.abort();
                    }
                }
                None => return,
            },
            Some(_) = tasks.join_next() => {}
            _ = recheck.tick() => {
                let (accounts, gone) = credentials.sweep();
                for key in gone {
                    watches.remove(&key).into_iter().for_each(|watch| watch.abort());
                    let unsaid = Event::Warnings(key.to_string().into(), Vec::new());
                    if !sink.send(vec![Event::Delete(key), unsaid]) {
                        return;
                    }
                }
                for account in accounts {
                    tasks.spawn(review(client.clone(), credentials.clone(), account));
                }
            }
        }
    }
}

/// Asks whether an account may have the Secrets of its namespace. Until the API server has said so, what was said before holds.
async fn review(client: Client, credentials: Arc<Credentials>, account: Account) {
    let mut told = None;
    loop {
        match may(&client, &account).await {
            Ok(may) => {
                let Account { namespace, name } = &account;
                if credentials.judged(&account, may) && !may {
                    tracing::warn!(
                        account = format!("{namespace}/{name}"),
                        "the proxy gets none of the Secrets that Gateways and DestinationRules name: its account may neither list nor `serve` secrets in namespace {namespace}; \
                         bind a Role there that allows one of these verbs"
                    );
                }
                return;
            }
            Err(reason) => {
                if told.as_ref() != Some(&reason) {
                    tracing::error!(
                        account = format!("{}/{}", account.namespace, account.name),
                        "it cannot be asked whether a proxy's account may have Secrets, and none is given out before: ClusterRole {} must allow create of \
                         subjectaccessreviews ({reason})",
                        CLUSTER_ROLE
                    );
                    told = Some(reason);
                }
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}

/// Whether one of [`VERBS`] is allowed.
async fn may(client: &Client, account: &Account) -> Result<bool, String> {
    let api = Api::<SubjectAccessReview>::all(client.clone());
    for verb in VERBS {
        let attributes = ResourceAttributes {
            namespace: Some(account.namespace.to_string()),
            verb: Some(verb.to_owned()),
            resource: Some("secrets".to_owned()),
            ..ResourceAttributes::default()
        };
        let user = format!("system:serviceaccount:{}:{}", account.namespace, account.name);
        let spec = SubjectAccessReviewSpec { resource_attributes: Some(attributes), user: Some(user), ..Default::default() };
        let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
        let asked = tokio::time::timeout(PATIENCE, api.create(&PostParams::default(), &review)).await;
        let answered = asked.map_err(|_| format!("no answer within {PATIENCE:?}"))?.map_err(|error| words(&error))?;
        let status = answered.status.unwrap_or_default();
        // What is denied in so many words is denied, whatever else allows it.
        if status.allowed && status.denied != Some(true) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Follows one Secret by its name.
async fn follow(client: Client, credentials: Arc<Credentials>, key: Key, sink: Sink) {
    let api = Api::<k8s::Secret>::namespaced(client, &key.namespace);
    let stream = watcher::watch_object(api, &key.name).default_backoff();
    pin_mut!(stream);
    let mut last = None;
    while let Some(found) = stream.next().await {
        let mut pause = Duration::ZERO;
        let events = match found {
            Ok(secret) => {
                credentials.found(&key, secret.is_some());
                let object = secret.map(|secret| Arc::new(Object::from(Secret::from_cluster(secret))));
                let mut events = vec![object.map_or_else(|| Event::Delete(key.clone()), Event::Apply)];
                if last.take().is_some() {
                    tracing::info!(secret = %key, "is followed again");
                    events.push(Event::Warnings(key.to_string().into(), Vec::new()));
                }
                events
            }
            Err(error) => match trouble(&error) {
                Some(now) if last.as_ref() != Some(&now) => {
                    if !matches!(now, Trouble::Unreachable(_)) {
                        pause = AGAIN;
                    }
                    let message = said(&now, &key);
                    tracing::error!(secret = %key, "{message}");
                    last = Some(now);
                    let problem = Problem { pos: Pos::default(), object: Some(key.clone()), field: String::new(), message };
                    vec![Event::Warnings(key.to_string().into(), vec![problem])]
                }
                now => {
                    if matches!(now, Some(Trouble::Forbidden(_) | Trouble::Missing)) {
                        pause = AGAIN;
                    }
                    Vec::new()
                }
            },
        };
        if !sink.send(events) {
            return;
        }
        tokio::time::sleep(pause).await;
    }
}

fn said(trouble: &Trouble, key: &Key) -> String {
    match trouble {
        Trouble::Forbidden(reason) => format!(
            "may not be read, and no gateway gets it that has not got it already: bind ClusterRole {ROLE} to the control plane's account in namespace {} ({reason})",
            key.namespace
        ),
        Trouble::Missing => "the cluster has no Secrets".to_owned(),
        Trouble::Unreachable(reason) => format!("is not followed now, and what is known stays in force: {reason}"),
    }
}
