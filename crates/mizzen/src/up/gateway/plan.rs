//! Which gateways there should be, and which ports of theirs should be open. Pure.

use std::collections::BTreeMap;

use mizzen_api::{
    Object,
    core::{Deployment, PodSpec},
};

use crate::up::desired::{self, Objects, Serving, Wanted};

/// The name of the default gateway and the value of its label `app`, as in Istio's default installation, and its namespace.
const NAME: &str = "istio-ingressgateway";
const NAMESPACE: &str = "istio-system";

/// The labels of the default gateway, which a Gateway's `selector` has to name.
pub(crate) fn labels() -> BTreeMap<String, String> {
    [("app", NAME), ("istio", "ingressgateway")].map(|(k, v)| (k.to_owned(), v.to_owned())).into()
}

/// The gateway that runs though no Deployment says so.
fn default_gateway() -> Wanted {
    Wanted {
        name: NAME.to_owned(),
        namespace: NAMESPACE.to_owned(),
        workload: NAME.to_owned(),
        labels: labels(),
        annotations: BTreeMap::new(),
        spec: PodSpec { service_account: format!("{NAME}-service-account"), ..PodSpec::default() },
        is_gateway: true,
    }
}

/// What a gateway is called: `NAMESPACE/WORKLOAD`.
pub(crate) fn id(namespace: &str, workload: &str) -> String {
    format!("{namespace}/{workload}")
}

/// Whether a gateway stands where the default one does: by its name, or by its labels.
fn is_in_front(namespace: &str, workload: &str, own: &BTreeMap<String, String>) -> bool {
    namespace == NAMESPACE && (workload == NAME || labels().iter().all(|(name, value)| own.get(name) == Some(value)))
}

/// Whether one takes the place of the other: as its next version, or where the default gateway stands.
pub(crate) fn follows(new: &Wanted, old: &Wanted) -> bool {
    let is_in_front = |pod: &Wanted| pod.is_gateway && is_in_front(&pod.namespace, &pod.workload, &pod.labels);
    (new.namespace == old.namespace && new.workload == old.workload) || (is_in_front(new) && is_in_front(old))
}

/// All gateways, and their ports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// The one that stands where the default gateway does.
    pub(crate) front: String,
    /// Whether that is the default gateway itself.
    pub(crate) is_default: bool,
    /// All of them, by what they are called. The default one is among them also while it has no ports, and does not run.
    pub(crate) gateways: BTreeMap<String, Planned>,
}

/// A gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Planned {
    /// Its namespace.
    pub(crate) namespace: String,
    /// The labels of its pods.
    pub(crate) labels: BTreeMap<String, String>,
    /// The ports that Gateways name, each with the scheme of what comes there.
    pub(crate) ports: BTreeMap<u16, &'static str>,
}

impl Plan {
    /// What these objects say.
    pub(crate) fn new(objects: &Objects, serving: Serving) -> Plan {
        let planned = |namespace: &str, labels: &BTreeMap<String, String>| Planned {
            ports: desired::gateway_ports(objects, namespace, labels, serving),
            namespace: namespace.to_owned(),
            labels: labels.clone(),
        };
        let mut plan = Plan { front: id(NAMESPACE, NAME), is_default: true, ..Plan::default() };
        for Deployment { meta, replicas, template, .. } in deployments(objects) {
            let id = id(&meta.namespace, &meta.name);
            // Also one that is not to run: then nothing stands there.
            if plan.is_default && is_in_front(&meta.namespace, &meta.name, &template.labels) {
                (plan.front, plan.is_default) = (id.clone(), false);
            }
            if *replicas > 0 {
                plan.gateways.insert(id, planned(&meta.namespace, &template.labels));
            }
        }
        if plan.is_default {
            plan.gateways.insert(plan.front.clone(), planned(NAMESPACE, &labels()));
        }
        plan
    }

    /// All of them, the one in front first.
    pub(crate) fn in_order(&self) -> impl Iterator<Item = (&String, &Planned)> {
        let others = self.gateways.iter().filter(|(id, _)| **id != self.front);
        self.gateways.get_key_value(&self.front).into_iter().chain(others)
    }
}

/// The Deployments whose pods are gateways.
fn deployments(objects: &Objects) -> impl Iterator<Item = &Deployment> {
    let all = objects.values().filter_map(|object| if let Object::Deployment(found) = &**object { Some(found) } else { None });
    all.filter(|found| found.template.is_gateway())
}

/// All pods that should run: those of Deployments, and the default gateway from the first Gateway on that selects it.
pub(crate) fn wanted(objects: &Objects, serving: Serving, runs: impl Fn(&str) -> bool) -> BTreeMap<String, Wanted> {
    let mut all = desired::wanted(objects);
    let plan = Plan::new(objects, serving);
    let default = default_gateway();
    let has_ports = || plan.gateways.get(&plan.front).is_some_and(|planned| !planned.ports.is_empty());
    if plan.is_default && (runs(&default.id()) || has_ports()) {
        all.insert(default.id(), default);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::up::desired::tests::objects;

    fn deployment(namespace: &str, name: &str, labels: &str, more: &str) -> String {
        format!(
            "---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  {more}
  selector: {{matchLabels: {{{labels}}}}}
  template:
    metadata: {{labels: {{{labels}}}, annotations: {{inject.istio.io/templates: gateway}}}}
    spec: {{serviceAccountName: {name}, containers: [{{name: istio-proxy, image: auto}}]}}
"
        )
    }

    fn gateway(name: &str, selector: &str, port: u16) -> String {
        format!(
            "---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: {name}, namespace: shop}}
spec: {{selector: {{{selector}}}, servers: [{{port: {{number: {port}, name: http, protocol: HTTP}}, hosts: ['*']}}]}}
"
        )
    }

    const OWN: &str = "app: istio-ingressgateway, istio: ingressgateway";

    #[test]
    fn gateways_and_their_ports() {
        let payments = deployment("payments", "payments-gateway", "istio: payments", "");
        let doors = gateway("a", "istio: ingressgateway", 80) + &gateway("b", "istio: payments", 443);
        let stays = Serving { stay_home: true, ..Serving::default() };
        // The one in front, and all with their ports, in order.
        let check = |text: &str, serving: Serving, front: &str, is_default: bool, expected: &[(&str, &[u16])]| {
            let plan = Plan::new(&objects(text), serving);
            assert_eq!((plan.front.as_str(), plan.is_default), (front, is_default), "{text}");
            let found: Vec<(String, Vec<u16>)> =
                plan.in_order().map(|(id, planned)| (id.clone(), planned.ports.keys().copied().collect())).collect();
            let expected: Vec<(String, Vec<u16>)> = expected.iter().map(|(id, ports)| ((*id).to_owned(), ports.to_vec())).collect();
            assert_eq!(found, expected, "{text}");
        };
        let usual = Serving::default();
        let own = "istio-system/istio-ingressgateway";
        check("", usual, own, true, &[(own, &[])]);
        check(&doors, usual, own, true, &[(own, &[80])]);
        let both = doors.clone() + &payments;
        check(&both, usual, own, true, &[(own, &[80]), ("payments/payments-gateway", &[443])]);
        check(&both, Serving { https: true, ..usual }, own, true, &[(own, &[80, 443]), ("payments/payments-gateway", &[443])]);
        check(&both, stays, own, true, &[(own, &[]), ("payments/payments-gateway", &[])]);
        let none = doors.clone() + &deployment("payments", "payments-gateway", "istio: payments", "replicas: 0");
        check(&none, usual, own, true, &[(own, &[80])]);
        // One by its labels, one by its name, and one that is not to run; elsewhere neither says anything.
        let edge = doors.clone() + &deployment("istio-system", "edge", OWN, "") + &deployment("payments", "b", OWN, "");
        check(&edge, usual, "istio-system/edge", false, &[("istio-system/edge", &[80]), ("payments/b", &[80])]);
        check(&(doors.clone() + &deployment("istio-system", "istio-ingressgateway", "a: b", "")), usual, own, false, &[(own, &[])]);
        check(&(doors + &deployment("istio-system", "edge", OWN, "replicas: 0")), usual, "istio-system/edge", false, &[]);
    }

    #[test]
    fn the_default_gateway_runs_from_the_first_gateway_on() {
        let names = |text: &str, runs: bool| wanted(&objects(text), Serving::default(), |_| runs).into_keys().collect::<Vec<_>>();
        let other = gateway("b", "istio: payments", 443);
        assert!(names(&other, false).is_empty());
        assert_eq!(names(&other, true), ["istio-system.istio-ingressgateway"]);
        assert_eq!(names(&gateway("a", "istio: ingressgateway", 80), false), ["istio-system.istio-ingressgateway"]);
        let edge = gateway("a", "istio: ingressgateway", 80) + &deployment("istio-system", "edge", OWN, "replicas: 2");
        let found = wanted(&objects(&edge), Serving::default(), |_| true);
        assert_eq!(found.len(), 2);
        for new in found.values() {
            assert_eq!((new.is_gateway, new.spec.service_account.as_str()), (true, "edge"));
            assert!(follows(new, &default_gateway()) && follows(&default_gateway(), new), "{new:?}");
            assert!(!new.told_labels().contains_key("security.istio.io/tlsMode"), "{new:?}");
        }
        let payments = wanted(&objects(&deployment("payments", "p", "istio: payments", "")), Serving::default(), |_| false);
        assert!(payments.values().all(|new| !follows(new, &default_gateway())));
    }
}
