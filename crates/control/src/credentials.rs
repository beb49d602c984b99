//! Secrets that gateways serve with, where they have to be fetched: which of them are wanted, by whom, and whether who asks may have them.
//!
//! A gateway's question starts the look-up; until it is known whether there is such a Secret and whether the gateway's account may have it, the question
//! stays open: an answer that there is none would take from a gateway what it serves with. What is known is kept current for as long as somebody wants it.
//! This knows no network: `kube/secrets.rs` looks things up.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use mizzen_api::Key;
use mizzen_types::Name;
use tokio::sync::mpsc;

use crate::memo::Asker;

/// A service account.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Account {
    pub(crate) namespace: Name,
    pub(crate) name: Name,
}

/// What is to be looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Whether an account may have the Secrets of its namespace.
    Account(Account),
    /// A Secret, from now on.
    Secret(Key),
}

/// What is known of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Who asks may not have it.
    Denied,
    /// Not all of it is known.
    Open,
    /// All is known.
    Known,
}

/// Who asked for a resource by which name: by address, which is nobody else's as long as it is kept here.
type Askers = BTreeMap<(usize, Name), Weak<Asker>>;

#[derive(Debug, Default)]
struct Known<T> {
    value: Option<T>,
    askers: Askers,
}

impl<T: PartialEq> Known<T> {
    fn join(&mut self, asker: &Arc<Asker>, resource: &str) {
        self.askers.entry((Arc::as_ptr(asker).addr(), resource.into())).or_insert_with(|| Arc::downgrade(asker));
    }

    /// Takes news; who has to look again.
    fn learn(&mut self, value: T) -> Askers {
        if self.value.as_ref() == Some(&value) {
            return Askers::new();
        }
        self.value = Some(value);
        self.askers.clone()
    }

    /// Whether anybody is left.
    fn is_wanted(&mut self) -> bool {
        self.askers.retain(|_, asker| asker.strong_count() > 0);
        !self.askers.is_empty()
    }
}

/// What is known.
#[derive(Debug)]
pub(crate) struct Credentials {
    state: Mutex<State>,
    wanted: mpsc::UnboundedSender<Wanted>,
    /// What no gateway gets, whatever a Gateway names.
    kept_back: BTreeSet<Key>,
}

#[derive(Debug, Default)]
struct State {
    accounts: BTreeMap<Account, Known<bool>>,
    /// Whether there is such a Secret.
    secrets: BTreeMap<Key, Known<bool>>,
}

impl Credentials {
    /// Nothing is known. What is wanted comes out of the receiver.
    pub(crate) fn new(kept_back: BTreeSet<Key>) -> (Arc<Credentials>, mpsc::UnboundedReceiver<Wanted>) {
        let (wanted, asked) = mpsc::unbounded_channel();
        (Arc::new(Credentials { state: Mutex::default(), wanted, kept_back }), asked)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of these Secrets for a proxy that asks for a resource; `is_there` says which of them the snapshot has that answers. What is not known
    /// is looked up, and the proxy then asked to look again.
    pub(crate) fn standing(&self, asker: &Arc<Asker>, resource: &str, secrets: &[Key], is_there: impl Fn(&Key) -> bool) -> Standing {
        let facts = asker.view.facts();
        if secrets.iter().any(|key| self.kept_back.contains(key)) {
            return Standing::Denied;
        }
        let account = Account { namespace: facts.namespace.clone(), name: facts.service_account.clone() };
        let mut state = self.lock();
        let is_new = !state.accounts.contains_key(&account);
        let known = state.accounts.entry(account.clone()).or_default();
        known.join(asker, resource);
        let may = known.value;
        if is_new {
            // Without anybody who looks things up the control plane ends anyway.
            let _ = self.wanted.send(Wanted::Account(account));
        }
        match may {
            None => return Standing::Open,
            Some(false) => return Standing::Denied,
            Some(true) => {}
        }
        let mut standing = Standing::Known;
        for key in secrets {
            if !state.secrets.contains_key(key) {
                let _ = self.wanted.send(Wanted::Secret(key.clone()));
            }
            let known = state.secrets.entry(key.clone()).or_default();
            known.join(asker, resource);
            // What is found reaches the snapshot a little later, and wakes who asked.
            if known.value != Some(is_there(key)) {
                standing = Standing::Open;
            }
        }
        standing
    }

    /// It is known whether an account may have the Secrets of its namespace. Whether that is news.
    pub(crate) fn judged(&self, account: &Account, may: bool) -> bool {
        let askers = self.lock().accounts.get_mut(account).map(|known| known.learn(may)).unwrap_or_default();
        call(&askers)
    }

    /// It is known whether there is a Secret.
    pub(crate) fn found(&self, key: &Key, is_there: bool) {
        let askers = self.lock().secrets.get_mut(key).map(|known| known.learn(is_there)).unwrap_or_default();
        call(&askers);
    }

    /// The accounts of proxies that are still there, and the Secrets that nobody wants any more, which are forgotten.
    pub(crate) fn sweep(&self) -> (Vec<Account>, Vec<Key>) {
        let mut state = self.lock();
        state.accounts.retain(|_, known| known.is_wanted());
        let gone: Vec<Key> = state.secrets.iter_mut().filter_map(|(key, known)| (!known.is_wanted()).then(|| key.clone())).collect();
        gone.iter().for_each(|key| drop(state.secrets.remove(key)));
        (state.accounts.keys().cloned().collect(), gone)
    }
}

/// Has these look again. Whether there are any.
fn call(askers: &Askers) -> bool {
    for (asker, name) in askers.iter().filter_map(|((_, name), asker)| Some((asker.upgrade()?, name))) {
        asker.call(mizzen_translate::ResourceKind::Secret, std::slice::from_ref(name).into());
    }
    !askers.is_empty()
}

#[cfg(test)]
mod tests {
    use mizzen_api::Kind;
    use mizzen_model::{ProxyFacts, ProxyType, ProxyView};

    use super::*;
    use crate::memo::Memo;

    fn gateway(memo: &Memo, namespace: &str, account: &str) -> Arc<Asker> {
        memo.enter(ProxyView::from(ProxyFacts {
            kind: ProxyType::Router,
            ip: "10.0.0.9".parse().unwrap(),
            more_ips: Vec::new(),
            id: "router~10.0.0.9~gate-0~x".into(),
            pod: "gate-0".into(),
            namespace: namespace.into(),
            service_account: account.into(),
            workload: "gate".into(),
            cluster: "Kubernetes".into(),
            locality: Default::default(),
            labels: BTreeMap::new(),
            extensions: BTreeSet::new(),
            topology: Default::default(),
            metadata: BTreeMap::new(),
        }))
    }

    fn key(namespace: &str, name: &str) -> Key {
        Key::new(Kind::Secret, namespace, name)
    }

    /// What a proxy was asked to look at again.
    fn due(asker: &Asker) -> Vec<Name> {
        asker.take_due().names.into_iter().flat_map(|(_, names)| names.to_vec()).collect()
    }

    #[test]
    fn a_question_stays_open_until_all_is_known() {
        let memo = Memo::default();
        let (known, mut wanted) = Credentials::new([key("istio-system", "cacerts")].into());
        let (ours, web) = (gateway(&memo, "istio-system", "gate"), [key("istio-system", "web")]);
        let account = Account { namespace: "istio-system".into(), name: "gate".into() };
        let ask = |there: bool| known.standing(&ours, "kubernetes://web", &web, |_| there);
        assert_eq!(ask(false), Standing::Open);
        assert_eq!(ask(false), Standing::Open, "it is looked up once");
        assert_eq!(wanted.try_recv().unwrap(), Wanted::Account(account.clone()));
        assert!(wanted.try_recv().is_err(), "no Secret is read for who may not have it");
        known.judged(&account, true);
        assert_eq!(due(&ours), ["kubernetes://web".into()]);
        assert_eq!(ask(false), Standing::Open);
        assert_eq!(wanted.try_recv().unwrap(), Wanted::Secret(web[0].clone()));
        known.found(&web[0], true);
        assert_eq!(due(&ours), ["kubernetes://web".into()]);
        // Found, and not in the snapshot yet; there; gone from the cluster, and there still; gone.
        assert_eq!([ask(false), ask(true)], [Standing::Open, Standing::Known]);
        known.found(&web[0], false);
        assert_eq!([ask(true), ask(false)], [Standing::Open, Standing::Known]);
        // The right is taken away.
        due(&ours);
        assert!(!known.judged(&account, true), "no news");
        assert!(due(&ours).is_empty());
        assert!(known.judged(&account, false));
        assert_eq!((due(&ours), ask(true)), (vec!["kubernetes://web".into()], Standing::Denied));
    }

    #[test]
    fn each_account_for_itself() {
        let memo = Memo::default();
        let (known, mut wanted) = Credentials::new([key("istio-system", "cacerts")].into());
        let (ours, other) = (gateway(&memo, "istio-system", "gate"), gateway(&memo, "istio-system", "other"));
        let web = [key("istio-system", "web")];
        for asker in [&ours, &other] {
            known.standing(asker, "kubernetes://web", &web, |_| false);
        }
        let account = |name: &str| Account { namespace: "istio-system".into(), name: name.into() };
        known.judged(&account("gate"), true);
        known.judged(&account("other"), false);
        assert_eq!(known.standing(&ours, "kubernetes://web", &web, |_| false), Standing::Open);
        assert_eq!(known.standing(&other, "kubernetes://web", &web, |_| true), Standing::Denied);
        let own = [key("istio-system", "cacerts")];
        assert_eq!(known.standing(&ours, "kubernetes://cacerts", &own, |_| true), Standing::Denied, "the mesh's own");

        // What nobody wants any more is forgotten, and looked up anew for the next one.
        while wanted.try_recv().is_ok() {}
        assert_eq!(known.sweep(), (vec![account("gate"), account("other")], Vec::new()));
        memo.leave(&ours);
        drop(ours);
        assert_eq!(known.sweep(), (vec![account("other")], web.to_vec()));
        assert_eq!(known.sweep(), (vec![account("other")], Vec::new()));
        let again = gateway(&memo, "istio-system", "gate");
        assert_eq!(known.standing(&again, "kubernetes://web", &web, |_| true), Standing::Open);
        assert_eq!(wanted.try_recv().unwrap(), Wanted::Account(account("gate")));
    }
}
