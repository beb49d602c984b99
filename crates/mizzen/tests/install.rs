//! The mesh is installed into a real API server, looked at, changed and removed. There are no nodes: the test says of Deployments what a cluster
//! would say once they run, and writes what the control plane would write.

use std::{
    os::unix::process::CommandExt,
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
};

use mizzen_testkit::{
    Output, eventually,
    kube::{ApiOptions, ApiServer},
};

fn mizzen(api: &ApiServer, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mizzen"));
    command.args(args).env("KUBECONFIG", api.kubeconfig_file()).stdin(Stdio::null());
    let output = command.output().expect("start the CLI");
    Output {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// The same while somebody stands for the cluster's nodes and for the control plane.
fn with_control_plane(api: &ApiServer, args: &[&str]) -> Output {
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                for deployment in ["istiod", "istio-ingressgateway", "payments"] {
                    let status =
                        r#"{"status":{"observedGeneration":99,"replicas":1,"updatedReplicas":1,"readyReplicas":1,"availableReplicas":1}}"#;
                    let of =
                        ["patch", "deployment", "-n", "istio-system", deployment, "--subresource=status", "--type=merge", "-p", status];
                    api.kubectl(&of, "");
                }
                for (kind, name, count) in [("mutating", "istio-sidecar-injector", 4), ("validating", "istio-validator-istio-system", 1)] {
                    let patches: Vec<String> = (0..count)
                        .map(|i| format!(r#"{{"op":"add","path":"/webhooks/{i}/clientConfig/caBundle","value":"Y2E="}}"#))
                        .collect();
                    let patch = format!("[{}]", patches.join(","));
                    api.kubectl(&["patch", &format!("{kind}webhookconfiguration"), name, "--type=json", "-p", &patch], "");
                }
            }
        });
        let output = mizzen(api, args);
        ended.store(true, Ordering::Relaxed);
        output
    })
}

fn names(api: &ApiServer, kinds: &str) -> Vec<String> {
    let listed = api.kubectl(&["get", kinds, "-A", "-o", "jsonpath={range .items[*]}{.kind}/{.metadata.name}{\"\\n\"}{end}"], "");
    listed.ok().lines().map(str::to_owned).collect()
}

fn may(api: &ApiServer, verb: &str, what: &str, namespace: &str) -> bool {
    let who = "--as=system:serviceaccount:istio-system:istiod";
    let (what, part) = what.strip_suffix("/status").map_or((what, ""), |what| (what, "status"));
    api.kubectl(&["auth", "can-i", verb, what, "--subresource", part, "-n", namespace, who], "").out.trim() == "yes"
}

#[test]
fn installed_and_removed() {
    let options = ApiOptions { controllers: "garbage-collector-controller,namespace-controller", ..ApiOptions::default() };
    let Some(api) = ApiServer::start_with(options) else { return };
    let folder = tempfile::tempdir().unwrap();
    let refused = |args: &[&str], why: &str| {
        let output = mizzen(&api, args);
        assert!(output.code != 0 && output.err.contains(why), "{args:?}: {output:?}");
    };
    refused(&["verify-install"], "nothing of Mizzen's is installed in this cluster");
    refused(&["uninstall", "-y"], "nothing of Mizzen's is installed in this cluster");
    refused(&["install"], "say so with -y");
    refused(&["install", "-y", "--set", "revision=canary"], "revision: one control plane per cluster");
    refused(&["install", "-y", "--context", "nowhere"], "nowhere");
    let would = mizzen(&api, &["install", "--dry-run"]).ok();
    assert!(
        would.contains("it issues tokens for an audience") && would.contains("Deployment istio-system/istiod would be made"),
        "{would}"
    );
    assert!(!names(&api, "namespaces").contains(&"Namespace/istio-system".to_owned()));
    // Without anybody who runs it.
    let late = mizzen(&api, &["install", "-y", "--readiness-timeout", "2s"]);
    assert!(late.err.contains("Deployment istio-system/istiod is not ready: nobody has seen its change yet"), "{late:?}");

    let payments = "components.ingressGateways[1].name=payments";
    let secure = ["install", "-y", "--set", "profile=secure", "--set", "tag=x", "--set", payments];
    let done = with_control_plane(&api, &secure).ok();
    assert!(done.contains("✔ control plane: ") && done.contains("✔ installation complete"), "{done}");
    assert!(done.contains("✔ ingress gateways (istio-ingressgateway, payments): 14 objects made, 0 changed"), "{done}");
    let kept = names(&api, "peerauthentications,authorizationpolicies");
    assert_eq!(kept, ["PeerAuthentication/default", "AuthorizationPolicy/allow-nothing"]);
    let verified = mizzen(&api, &["verify-install"]).ok();
    assert!(verified.contains("objects of profile secure are as they should be, 0 are not"), "{verified}");
    for (verb, what, namespace, can) in [
        ("list", "pods", "shop", true),
        ("create", "tokenreviews.authentication.k8s.io", "shop", true),
        ("patch", "configmaps/istio-ca-root-cert", "shop", true),
        ("update", "configmaps/istio-ca-root-cert", "shop", false),
        ("patch", "configmaps/settings", "shop", false),
        ("get", "pods", "shop", false),
        ("create", "events", "shop", false),
        ("create", "events.events.k8s.io", "shop", true),
        ("get", "secrets/cacerts", "istio-system", true),
        ("patch", "secrets/cacerts", "istio-system", false),
        ("update", "secrets/istio-ca-secret", "istio-system", false),
        ("create", "secrets", "istio-system", true),
        ("create", "secrets", "shop", false),
        ("update", "leases.coordination.k8s.io/istio-leader", "istio-system", true),
        ("update", "leases.coordination.k8s.io/other", "istio-system", false),
        ("create", "leases.coordination.k8s.io", "istio-system", true),
        ("create", "leases.coordination.k8s.io", "shop", false),
        ("get", "secrets/bookshop-tls", "istio-system", true),
        ("get", "secrets/bookshop-tls", "shop", false),
        ("list", "virtualservices.networking.istio.io", "shop", true),
        ("delete", "virtualservices.networking.istio.io", "shop", false),
        ("patch", "virtualservices.networking.istio.io", "shop", false),
        ("patch", "virtualservices.networking.istio.io/status", "shop", true),
        ("update", "virtualservices.networking.istio.io/status", "shop", false),
        ("patch", "mutatingwebhookconfigurations/istio-sidecar-injector", "shop", true),
        ("patch", "mutatingwebhookconfigurations/other", "shop", false),
        ("create", "pods", "istio-system", false),
    ] {
        assert_eq!(may(&api, verb, what, namespace), can, "{verb} {what} in {namespace}");
    }
    // Once more, and nothing changes.
    let again = with_control_plane(&api, &secure).ok();
    for line in again.lines().filter(|line| line.starts_with("✔ ") && line.contains(':')) {
        assert!(line.contains(": 0 objects made, 0 changed, "), "{again}");
    }
    // Gateways that the cluster would not take.
    let of_ingress = |field: &str| format!("components.ingressGateways[0].{field}");
    let missing = "components.ingressGateways[0].namespace: the cluster has no namespace tills";
    refused(&["install", "-y", "--set", &of_ingress("namespace=tills")], missing);
    let relabelled = "Deployment istio-system/istio-ingressgateway is there with other labels app and istio";
    refused(&["install", "-y", "--set", &of_ingress("label.istio=tills")], relabelled);
    let (namespace, name) = (of_ingress("namespace=default"), of_ingress("name=kubernetes"));
    refused(&["install", "-y", "--set", &namespace, "--set", &name], "Service default/kubernetes is there and is not Mizzen's");
    api.apply(
        "{apiVersion: policy/v1, kind: PodDisruptionBudget, metadata: {name: tills, namespace: default}, spec: {selector: {matchLabels: {app: \
         tills}}, minAvailable: 1}}",
    );
    let name = of_ingress("name=tills");
    let foreign = "PodDisruptionBudget default/tills is there and is not Mizzen's";
    refused(&["install", "-y", "--set", &namespace, "--set", &name], foreign);
    // A smaller one takes what it does not have away.
    injected_by_its_settings(&api);
    let first_party = "values.global.jwtPolicy=first-party-jwt";
    let smaller = with_control_plane(&api, &["install", "-y", "--set", "profile=minimal", "--set", first_party]).ok();
    for gateway in ["istio-ingressgateway", "payments"] {
        assert!(smaller.contains(&format!("Deployment istio-system/{gateway} is removed")), "{smaller}");
    }
    assert!(names(&api, "peerauthentications").is_empty() && !may(&api, "get", "secrets/bookshop-tls", "istio-system"));
    // A file is analyzed over what the cluster has.
    let file = folder.path().join("a.yaml");
    std::fs::write(&file, "{apiVersion: v1, kind: Namespace, metadata: {name: shop}}\n").unwrap();
    let analyzed = mizzen(&api, &["analyze", file.to_str().unwrap()]);
    for of in ["ConfigMap istio-system/istio-sidecar-injector", "Deployment istio-system/istiod"] {
        assert!(analyzed.out.contains(&format!("Warning [MZ0111] ({of} ")), "{analyzed:?}");
    }
    api.kubectl(&["delete", "role", "-n", "istio-system", "istiod"], "").ok();
    refused(&["verify-install"], "Role istio-system/istiod is missing");

    api.apply("{apiVersion: networking.istio.io/v1, kind: Sidecar, metadata: {name: mine, namespace: default}, spec: {}}");
    let root = "{apiVersion: v1, kind: ConfigMap, metadata: {name: istio-ca-root-cert, namespace: default}, data: {root-cert.pem: x}}";
    api.apply(root);
    mizzen(&api, &["uninstall", "-y"]).ok();
    assert_eq!(names(&api, "sidecars"), ["Sidecar/mine"]);
    assert!(names(&api, "deployments,mutatingwebhookconfigurations").is_empty());
    mizzen(&api, &["uninstall", "--purge", "-y"]).ok();
    let left = "customresourcedefinitions,namespaces,clusterroles,clusterrolebindings,validatingwebhookconfigurations,configmaps";
    let left: Vec<String> = names(&api, left).into_iter().filter(|name| name.contains("istio") || name.contains("mizzen")).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// A manifest gets what the webhook would put into its pod.
fn injected_by_its_settings(api: &ApiServer) {
    let folder = tempfile::tempdir().unwrap();
    let (pod, values) = (folder.path().join("pod.yaml"), folder.path().join("values.yaml"));
    std::fs::write(&pod, "{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {containers: [{name: a, image: a}]}}\n").unwrap();
    std::fs::write(&values, "global: {tag: other}\n").unwrap();
    let (pod, values) = (pod.to_str().unwrap(), values.to_str().unwrap());
    let injected = mizzen(api, &["kube-inject", "-f", pod]).ok();
    assert!(injected.contains("mizzen/proxyv2:x") && injected.contains("restartPolicy: Always"), "{injected}");
    let by_files = mizzen(api, &["kube-inject", "-f", pod, "--valuesFile", values]).ok();
    assert!(by_files.contains("mizzen/proxyv2:other") && !by_files.contains("restartPolicy: Always"), "{by_files}");
    let both = mizzen(api, &["kube-inject", "-f", pod, "--valuesFile", values, "--context", "x"]);
    assert!(both.code != 0 && both.err.contains("either the cluster's settings or those of files"), "{both:?}");
    let elsewhere = mizzen(api, &["kube-inject", "-f", pod, "-i", "elsewhere"]);
    assert!(elsewhere.code != 0 && elsewhere.err.contains("no mesh is installed: there is no ConfigMap elsewhere/istio"), "{elsewhere:?}");
}

/// Who installs the mesh into a cluster of two families asks for Services of both; that pods have both is nothing to be warned of.
#[test]
fn a_cluster_of_two_families() {
    let Some(api) = ApiServer::start() else { return };
    api.apply(
        "{apiVersion: v1, kind: Node, metadata: {name: n1}, spec: {podCIDR: 10.244.0.0/24, podCIDRs: [10.244.0.0/24, 'fd00:10:244::/64']}}",
    );
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, "spec: {meshConfig: {defaultConfig: {proxyMetadata: {ISTIO_DUAL_STACK: 'true'}}}}\n").unwrap();
    let dual = ["--set", "values.global.dualStack=true", "--set", "values.global.ipFamilyPolicy=PreferDualStack"];
    let install = [&["install", "--dry-run", "-f", file.path().to_str().unwrap()][..], &dual].concat();
    for args in [&install[..], &["x", "precheck"]] {
        let output = mizzen(&api, args);
        assert_eq!((output.code, (output.out + &output.err).contains("IPv6")), (0, false), "{args:?}");
    }
    let refused = mizzen(&api, &["install", "--dry-run", "--set", "meshConfig.defaultConfig.proxyMetadata.ISTIO_DUAL_STACK=maybe"]);
    let why = "proxyMetadata.ISTIO_DUAL_STACK: maybe: must be true or false";
    assert!(refused.code != 0 && refused.err.contains(why), "{refused:?}");
}

#[test]
fn what_another_installer_has_made() {
    let Some(api) = ApiServer::start() else { return };
    api.apply("{apiVersion: v1, kind: Namespace, metadata: {name: istio-system}}");
    let webhook =
        "{apiVersion: admissionregistration.k8s.io/v1, kind: MutatingWebhookConfiguration, metadata: {name: istio-sidecar-injector}}";
    api.apply(webhook);
    let refused = mizzen(&api, &["install", "-y"]);
    assert!(refused.code != 0 && refused.err.contains("is there and is not Mizzen's"), "{refused:?}");
    assert!(names(&api, "customresourcedefinitions").is_empty());
    let taken = with_control_plane(&api, &["install", "-y", "--force", "--set", "profile=minimal"]).ok();
    assert!(taken.contains("✔ installation complete"), "{taken}");
    let labels = api.kubectl(&["get", "namespace", "istio-system", "-o", "jsonpath={.metadata.labels}"], "").ok();
    assert!(!labels.contains("install.operator.istio.io"), "a namespace of somebody's stays as it was: {labels}");
}

/// The control plane does all that it does with the rights that it is given, and says of none that it lacks it.
#[test]
fn the_rights_are_enough() {
    let Some(api) = ApiServer::start() else { return };
    api.apply(&mizzen(&api, &["x", "crds"]).ok());
    api.kubectl(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"], "").ok();
    // What is wrong is there before anybody judges it.
    api.apply(
        "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: wrong, namespace: default}
spec: {hosts: [a], http: [{rewrite: {uriRegexRewrite: {match: '(', rewrite: x}}, route: [{destination: {host: a}}]}]}
",
    );
    api.apply("{apiVersion: v1, kind: Namespace, metadata: {name: istio-system}}");
    api.apply(&mizzen(&api, &["manifest", "generate", "--set", "profile=minimal"]).ok());
    let folder = tempfile::tempdir().expect("a folder");
    let (config, log) = (folder.path().join("kubeconfig"), folder.path().join("log"));
    std::fs::write(&config, api.kubeconfig_for("system:serviceaccount:istio-system:istiod", &[])).expect("a file");
    let said = std::fs::File::create(&log).expect("a file");
    let ports = ["--webhook-port", "--xds-port", "--monitoring-port", "--debug-port"].into_iter().flat_map(|port| [port, "0"]);
    let mut control = Command::new(env!("CARGO_BIN_EXE_mizzen"))
        .arg0("mizzend")
        .args(["--kubernetes", "--address", "127.0.0.1", "--kubeconfig"])
        .arg(&config)
        .arg("--socket-dir")
        .arg(folder.path())
        .args(ports)
        .stdin(Stdio::null())
        .stdout(said.try_clone().expect("a file"))
        .stderr(said)
        .spawn()
        .expect("the control plane");
    let read = |args: &[&str], path: &str| {
        let path = format!("jsonpath={path}");
        let found = api.kubectl(&[&["get"], args, &["-o", &path]].concat(), "");
        if found.code == 0 && !found.out.is_empty() { Ok(()) } else { Err(found.err) }
    };
    for (what, path) in [
        (&["secret", "istio-ca-secret", "-n", "istio-system"][..], "{.data.ca-cert\\.pem}"),
        (&["configmap", "istio-ca-root-cert", "-n", "default"], "{.data.root-cert\\.pem}"),
        (&["mutatingwebhookconfiguration", "istio-sidecar-injector"], "{.webhooks[0].clientConfig.caBundle}"),
        (&["validatingwebhookconfiguration", "istio-validator-istio-system"], "{.webhooks[0].clientConfig.caBundle}"),
        (&["virtualservice", "wrong", "-n", "default"], "{.status.conditions[?(@.type==\"Reconciled\")].message}"),
        (&["events.events.k8s.io", "-n", "default"], "{.items[*].reason}"),
    ] {
        eventually(&format!("{what:?}"), || read(what, path));
    }
    // What was changed by others is put back.
    let other = r#"{"data": {"root-cert.pem": ""}}"#;
    api.kubectl(&["patch", "configmap", "istio-ca-root-cert", "-n", "default", "--type=merge", "-p", other], "").ok();
    eventually("the root is back", || read(&["configmap", "istio-ca-root-cert", "-n", "default"], "{.data.root-cert\\.pem}"));
    control.kill().and_then(|()| control.wait()).expect("it ends");
    let said = std::fs::read_to_string(&log).expect("a file");
    for word in ["forbidden", "may not be read", "cannot be"] {
        assert!(!said.contains(word), "{word}: {said}");
    }
}

/// Istio's kinds as the API server knows them.
#[test]
fn the_kinds_are_taken() {
    let Some(api) = ApiServer::start() else { return };
    api.apply(&mizzen(&api, &["x", "crds"]).ok());
    api.kubectl(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"], "").ok();
    let described =
        api.kubectl(&["get", "crd", "-o", "jsonpath={.items[*].status.conditions[?(@.type==\"NonStructuralSchema\")]}"], "").ok();
    assert_eq!(described, "", "schemas are structural");
    let samples = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../samples");
    for namespace in ["shop", "istio-system"] {
        api.apply(&format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {namespace}}}}}"));
    }
    for entry in
        std::fs::read_dir(samples.join("bookshop-steps")).unwrap().map(|entry| entry.unwrap().path()).chain([samples.join("bookshop")])
    {
        api.kubectl(&["apply", "--server-side", "--force-conflicts", "-R", "-f", entry.to_str().unwrap()], "").ok();
    }
    for (group, kind, spec, why) in [
        ("security", "PeerAuthentication", "portLevelMtls: {'80': {mode: STRICT}}", "portLevelMtls needs a selector with labels"),
        ("security", "PeerAuthentication", "mtls: {mode: STRIKT}", "Unsupported value: \"STRIKT\""),
        (
            "security",
            "AuthorizationPolicy",
            "selector: {}\n  targetRef: {kind: Service, name: x, group: ''}",
            "only one of selector, targetRef",
        ),
        ("security", "AuthorizationPolicy", "rulez: []", "field not declared in schema"),
        ("networking", "ServiceEntry", "hosts: []", "spec.hosts"),
        ("networking", "DestinationRule", "host: x\n  trafficPolicy: {connectionPool: {tcp: {connectTimeout: -1s}}}", "must be a duration"),
        (
            "networking",
            "Gateway",
            "servers: [{port: {number: 99999, name: a, protocol: HTTP}, hosts: ['*']}]",
            "less than or equal to 65535",
        ),
        ("networking", "VirtualService", "hosts: [x]\n  http: [{route: [{destination: {host: x}}], redirect: {uri: /}}]", "spec.http[0]"),
    ] {
        let object = format!("apiVersion: {group}.istio.io/v1\nkind: {kind}\nmetadata: {{name: x, namespace: shop}}\nspec:\n  {spec}\n");
        let output = api.kubectl(&["apply", "--server-side", "--dry-run=server", "-f", "-"], &object);
        assert!(output.code != 0 && output.err.contains(why), "{object}{output:?}");
    }
}
