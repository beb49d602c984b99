//! The charts on a real API server: installed, changed and removed by Helm. There are no nodes.

use std::process::Command;

use mizzen_testkit::{
    Output,
    kube::{ApiOptions, ApiServer, Programs},
};

use super::{GATEWAY, chart, run};

struct World {
    api: ApiServer,
    helm: Programs,
    /// For what Helm keeps beside the cluster.
    folder: tempfile::TempDir,
}

impl World {
    fn helm(&self, words: &[&str]) -> Output {
        let home = self.folder.path();
        let mut command = Command::new(self.helm.path("helm"));
        command.args(words).args(["-n", "istio-system"]).env("KUBECONFIG", self.api.kubeconfig_file());
        run(command.env("HELM_CACHE_HOME", home).env("HELM_CONFIG_HOME", home).env("HELM_DATA_HOME", home))
    }

    /// `install` or `upgrade` of a chart.
    fn with(&self, verb: &str, release: &str, name: &str, words: &[&str]) -> String {
        let path = chart(name);
        let words: Vec<&str> = [verb, release, path.to_str().expect("a path")].into_iter().chain(words.iter().copied()).collect();
        self.helm(&words).ok()
    }

    fn get(&self, what: &str, path: &str) -> String {
        self.api.kubectl(&["get", what, "-n", "istio-system", "-o", &format!("jsonpath={{{path}}}")], "").ok()
    }
}

#[test]
fn installed_changed_and_removed() {
    let Some(helm) = Programs::for_helm() else { return };
    let options = ApiOptions { controllers: "garbage-collector-controller,namespace-controller", ..ApiOptions::default() };
    let Some(api) = ApiServer::start_with(options) else { return };
    let world = World { api, helm, folder: tempfile::tempdir().expect("a folder") };
    world.with("install", "base", "base", &["--create-namespace"]);
    let all = "global.networkPolicy.enabled=true";
    world.with("install", "istiod", "istiod", &["--set", "profile=secure", "--set", all, "--set", "pilot.autoscaleEnabled=true"]);
    world.with("install", GATEWAY, "gateway", &["--set", all, "--set", "autoscaling.enabled=true"]);
    for kind in ["deployment", "poddisruptionbudget", "horizontalpodautoscaler", "networkpolicy"] {
        assert_eq!(world.get(kind, ".items[*].metadata.name"), format!("{GATEWAY} istiod"), "{kind}");
    }
    assert_eq!(world.get("peerauthentication", ".items[*].metadata.name"), "default");
    two_installers(&world);
    verified(&world);

    // What the control plane has closed and filled in stays so.
    let validator = "validatingwebhookconfiguration/istio-validator-istio-system";
    let closed = r#"[{"op":"replace","path":"/webhooks/0/failurePolicy","value":"Fail"},{"op":"add","path":"/webhooks/0/clientConfig/caBundle","value":"Y2E="}]"#;
    world.api.kubectl(&["patch", validator, "--type=json", "-p", closed], "").ok();
    world.with("upgrade", "base", "base", &[]);
    assert_eq!(world.get(validator, ".webhooks[0].failurePolicy"), "Fail");
    assert_eq!(world.get(validator, ".webhooks[0].clientConfig.caBundle"), "Y2E=");
    // What is not part of it any more goes.
    world.with("upgrade", "istiod", "istiod", &["--set", "pilot.replicaCount=2"]);
    assert_eq!(world.get("deployment/istiod", ".spec.replicas"), "2");
    assert_eq!(world.get("networkpolicy", ".items[*].metadata.name"), GATEWAY);
    assert_eq!(world.get("authorizationpolicy", ".items[*].metadata.name"), "");

    for release in [GATEWAY, "istiod", "base"] {
        world.helm(&["uninstall", release]).ok();
    }
    for kind in ["deployment", "mutatingwebhookconfiguration", "validatingwebhookconfiguration", "role"] {
        assert_eq!(world.get(kind, ".items[*].metadata.name"), "", "{kind}");
    }
    assert!(world.get("customresourcedefinition", ".items[*].metadata.name").contains("virtualservices.networking.istio.io"));
}

/// Neither of the two undoes the other's work unasked.
fn two_installers(world: &World) {
    let mut install = Command::new(env!("CARGO_BIN_EXE_mizzen"));
    install.args(["install", "-y"]).env("KUBECONFIG", world.api.kubeconfig_file());
    let refused = run(&mut install);
    assert!(refused.code != 0 && refused.err.contains("is Helm's, which would undo what is done here"), "{refused:?}");
}

/// `verify-install` knows what Helm has installed: what is missing of it, what is another's, and what is not ready.
fn verified(world: &World) {
    let verify = || {
        let mut verify = Command::new(env!("CARGO_BIN_EXE_mizzen"));
        run(verify.arg("verify-install").env("KUBECONFIG", world.api.kubeconfig_file()))
    };
    // Nothing runs here, and so nobody has written its authority or is available.
    let seen = verify();
    assert!(
        seen.code == 1 && seen.out.contains(&format!("objects of releases base, {GATEWAY}, istiod are as they should be, 4 are not")),
        "{seen:?}"
    );
    for line in [
        "Deployment istio-system/istiod is not ready: ",
        &format!("Deployment istio-system/{GATEWAY} is not ready: "),
        "MutatingWebhookConfiguration istio-sidecar-injector is not ready: the control plane has not written its authority",
        "ValidatingWebhookConfiguration istio-validator-istio-system is not ready: ",
    ] {
        assert!(seen.err.contains(line), "{line}: {seen:?}");
    }
    assert!(!seen.err.contains("is missing") && !seen.err.contains("is not of release"), "{seen:?}");
    world.api.kubectl(&["delete", "service", "-n", "istio-system", "istiod"], "").ok();
    let foreign = ["annotate", "serviceaccount", "-n", "istio-system", "istiod", "meta.helm.sh/release-name=other", "--overwrite"];
    world.api.kubectl(&foreign, "").ok();
    let seen = verify();
    assert!(seen.err.contains("Service istio-system/istiod is missing"), "{seen:?}");
    assert!(seen.err.contains("ServiceAccount istio-system/istiod is not of release base"), "{seen:?}");
    let own = ["annotate", "serviceaccount", "-n", "istio-system", "istiod", "meta.helm.sh/release-name=base", "--overwrite"];
    world.api.kubectl(&own, "").ok();
}
