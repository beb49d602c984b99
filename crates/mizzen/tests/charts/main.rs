//! The Helm charts: what they render is what `mizzen install` applies, and what they do not know they refuse by name.

mod installed;
mod monitoring;
mod objects;

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use mizzen_testkit::{Output, kube::Programs};
use objects::{Objects, differences};

/// The gateway of `install`, as a release of the chart.
const GATEWAY: &str = "istio-ingressgateway";
const ACCOUNT: &str = "serviceAccount.name=istio-ingressgateway-service-account";

fn chart(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../charts").join(name)
}

fn run(command: &mut Command) -> Output {
    let output = command.output().expect("start it");
    Output {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// `helm template` of a chart in a namespace.
fn template(helm: &Programs, namespace: &str, release: &str, name: &str, words: &[&str]) -> Output {
    let mut command = Command::new(helm.path("helm"));
    command.args(["template", release]).arg(chart(name)).args(["-n", namespace]).args(words);
    run(&mut command)
}

/// Each setting behind `--set`.
fn set<'a>(settings: &[&'a str]) -> Vec<&'a str> {
    settings.iter().flat_map(|setting| ["--set", *setting]).collect()
}

/// Settings that mean the same to the installer and to the charts.
#[derive(Default)]
struct Case {
    profile: &'static str,
    /// Values of the installer, `meshConfig` and of the chart of the control plane; those of `global` of all charts.
    same: &'static [&'static str],
    /// Those of the gateway: for the installer (below `values.gateways.istio-ingressgateway`) and for the chart.
    gateway: &'static [(&'static str, &'static str)],
    /// The same as `same`, as a file.
    file: &'static str,
    /// Where the plugin of nodes is installed, its own values, below `cni`.
    cni: Option<&'static [&'static str]>,
}

impl Case {
    fn installed(&self, folder: &Path) -> Objects {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mizzen"));
        command.args(["manifest", "generate", "--set", &format!("profile={}", self.profile)]);
        if !self.file.is_empty() {
            let indented: String = self.file.lines().map(|line| format!("    {line}\n")).collect();
            let operator = format!("apiVersion: install.istio.io/v1alpha1\nkind: IstioOperator\nspec:\n  values:\n{indented}");
            let path = folder.join("operator.yaml");
            std::fs::write(&path, operator).expect("a file");
            command.arg("-f").arg(path);
        }
        for setting in self.same {
            let top = if setting.starts_with("meshConfig.") { "" } else { "values." };
            command.args(["--set", &format!("{top}{setting}")]);
        }
        if let Some(settings) = self.cni {
            command.args(["--set", "components.cni.enabled=true"]);
            for setting in settings {
                command.args(["--set", &format!("values.cni.{setting}")]);
            }
        }
        for (setting, _) in self.gateway {
            command.args(["--set", &format!("values.gateways.istio-ingressgateway.{setting}")]);
        }
        Objects::of_installer(&run(&mut command).ok())
    }

    fn rendered(&self, helm: &Programs, folder: &Path) -> Objects {
        let global: Vec<&str> = self.same.iter().copied().filter(|setting| setting.starts_with("global.")).collect();
        let profile = format!("profile={}", self.profile);
        let mut of_istiod = set(self.same);
        of_istiod.extend(["--set", &profile]);
        let path = folder.join("values.yaml");
        let file = path.to_str().expect("a path");
        if !self.file.is_empty() {
            std::fs::write(&path, self.file).expect("a file");
            of_istiod.extend(["-f", file]);
        }
        let mut text = template(helm, "istio-system", "base", "base", &set(&global)).ok();
        if let Some(settings) = self.cni {
            of_istiod.extend(["--set", "pilot.cni.enabled=true"]);
            let own: Vec<String> = settings.iter().map(|setting| format!("cni.{setting}")).collect();
            let of_cni: Vec<&str> = global.iter().copied().chain(own.iter().map(String::as_str)).collect();
            text += &template(helm, "istio-system", "istio-cni", "cni", &set(&of_cni)).ok();
        }
        text += &template(helm, "istio-system", "istiod", "istiod", &of_istiod).ok();
        if self.profile != "minimal" {
            let of_gateway: Vec<&str> =
                [ACCOUNT].into_iter().chain(global).chain(self.gateway.iter().map(|(_, setting)| *setting)).collect();
            text += &template(helm, "istio-system", GATEWAY, "gateway", &set(&of_gateway)).ok();
        }
        Objects::of_charts(&text)
    }
}

#[test]
fn what_is_rendered_is_what_is_installed() {
    let Some(helm) = Programs::for_helm() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    for (at, case) in cases().iter().enumerate() {
        let (installed, rendered) = (case.installed(folder.path()), case.rendered(&helm, folder.path()));
        assert!(installed.titles().count() > 20 && installed.titles().any(|title| title == "Deployment istio-system/istiod"));
        let found = differences(&installed, &rendered);
        assert!(found.is_empty(), "case {at}, profile {} {:?} {:?}:\n{}", case.profile, case.same, case.gateway, found.join("\n"));
    }
}

fn cases() -> Vec<Case> {
    let of = |profile| Case { profile, ..Case::default() };
    vec![
        of("default"),
        of("secure"),
        of("minimal"),
        Case {
            same: &[
                "global.hub=registry.test/mesh",
                "global.tag=v2",
                "global.imagePullPolicy=Never",
                "global.imagePullSecrets[0]=key",
                "global.imagePullSecrets[1].name=other",
                "global.priorityClassName=system-cluster-critical",
                "global.jwtPolicy=first-party-jwt",
                "global.logging.level=default:debug",
                "global.networkPolicy.enabled=true",
                "global.proxy.logLevel=debug",
                "global.proxy.resources.requests.cpu=10m",
                "global.externalIstiod=false",
            ],
            gateway: &[
                ("ports[0].name=http", "service.ports[0].name=http"),
                ("ports[0].port=80", "service.ports[0].port=80"),
                ("ports[0].targetPort=8080", "service.ports[0].targetPort=8080"),
            ],
            ..of("default")
        },
        Case {
            same: &[
                "pilot.autoscaleEnabled=true",
                "pilot.autoscaleMin=2",
                "pilot.autoscaleMax=9",
                "pilot.cpu.targetAverageUtilization=60",
                "pilot.memory.targetAverageUtilization=70",
                "pilot.autoscaleBehavior.scaleDown.stabilizationWindowSeconds=600",
                "pilot.rollingMaxSurge=25%",
                "pilot.rollingMaxUnavailable=1",
                "pilot.pdb.maxUnavailable=0",
                "pilot.pdb.unhealthyPodEvictionPolicy=AlwaysAllow",
            ],
            gateway: &[
                ("autoscaleEnabled=true", "autoscaling.enabled=true"),
                ("autoscaleMin=2", "autoscaling.minReplicas=2"),
                ("autoscaleMax=7", "autoscaling.maxReplicas=7"),
                ("cpu.targetAverageUtilization=50", "autoscaling.targetCPUUtilizationPercentage=50"),
                ("memory.targetAverageUtilization=40", "autoscaling.targetMemoryUtilizationPercentage=40"),
                ("rollingMaxSurge=1", "strategy.rollingUpdate.maxSurge=1"),
                ("podDisruptionBudget.minAvailable=50%", "podDisruptionBudget.minAvailable=50%"),
            ],
            ..of("default")
        },
        Case { same: &["global.defaultPodDisruptionBudget.enabled=false"], ..of("secure") },
        Case {
            same: &[
                "pilot.replicaCount=2",
                "pilot.hub=elsewhere.test",
                "pilot.tag=3",
                "pilot.resources.requests.cpu=500m",
                "pilot.resources.limits.memory=1Gi",
                "pilot.env.A=true",
                "pilot.env.B=text",
                "pilot.envVarFrom[0].name=C",
                "pilot.envVarFrom[0].value=c",
                "pilot.extraContainerArgs[0]=--no-analysis",
                "pilot.volumes[0].name=more",
                "pilot.volumeMounts[0].name=more",
                "pilot.volumeMounts[0].mountPath=/more",
                "pilot.podAnnotations.example\\.com/a=1",
                "pilot.podLabels.a=b",
                "pilot.deploymentAnnotations.c=d",
                "pilot.deploymentLabels.e=f",
                "pilot.serviceAnnotations.g=h",
                "pilot.seccompProfile.type=Unconfined",
                "pilot.nodeSelector.kubernetes\\.io/os=linux",
                "pilot.tolerations[0].operator=Exists",
                "pilot.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight=1",
                "pilot.topologySpreadConstraints[0].maxSkew=1",
            ],
            gateway: &[
                ("replicaCount=3", "replicaCount=3"),
                ("type=NodePort", "service.type=NodePort"),
                ("externalTrafficPolicy=Local", "service.externalTrafficPolicy=Local"),
                ("loadBalancerIP=192.0.2.1", "service.loadBalancerIP=192.0.2.1"),
                ("loadBalancerSourceRanges[0]=192.0.2.0/24", "service.loadBalancerSourceRanges[0]=192.0.2.0/24"),
                ("serviceAnnotations.a=b", "service.annotations.a=b"),
                ("serviceAccount.annotations.i=j", "serviceAccount.annotations.i=j"),
                ("podAnnotations.c=d", "podAnnotations.c=d"),
                ("resources.limits.cpu=1", "resources.limits.cpu=1"),
                ("env.K=7", "env.K=7"),
                ("nodeSelector.zone=a", "nodeSelector.zone=a"),
                ("tolerations[0].operator=Exists", "tolerations[0].operator=Exists"),
                ("affinity.podAffinity.x=y", "affinity.podAffinity.x=y"),
                ("topologySpreadConstraints[0].maxSkew=2", "topologySpreadConstraints[0].maxSkew=2"),
            ],
            ..of("default")
        },
        Case {
            same: &[
                "meshConfig.accessLogFile=/dev/stdout",
                "meshConfig.outboundTrafficPolicy.mode=REGISTRY_ONLY",
                "meshConfig.defaultConfig.proxyMetadata.ISTIO_META_EXAMPLE=text",
                "meshConfig.trustDomain=example.test",
                "sidecarInjectorWebhook.enableNamespacesByDefault=true",
                "sidecarInjectorWebhook.reinvocationPolicy=IfNeeded",
                "sidecarInjectorWebhook.rewriteAppHTTPProbe=false",
            ],
            ..of("minimal")
        },
        Case { cni: Some(&[]), same: &["global.tag=7", "global.imagePullPolicy=Never", "global.imagePullSecrets[0]=key"], ..of("minimal") },
        Case {
            cni: Some(&[
                "hub=elsewhere.test",
                "tag=3",
                "cniBinDir=/home/kubernetes/bin",
                "cniConfDir=/etc/other/net.d",
                "cniConfFileName=10-calico.conflist",
                "excludeNamespaces[0]=kube-system",
                "excludeNamespaces[1]=other",
                "logging.level=default:debug",
                "repair.repairPods=false",
                "repair.labelPods=true",
                "resourceQuotas.enabled=true",
                "resourceQuotas.pods=2000000",
                "resources.limits.memory=1Gi",
                "podAnnotations.example\\.com/a=1",
                "podLabels.a=b",
                "rollingMaxUnavailable=25%",
                "seccompProfile.type=Unconfined",
                "nodeSelector.zone=a",
                "tolerations[0].operator=Exists",
                "affinity.nodeAffinity.x=y",
            ]),
            same: &["pilot.env.A=true"],
            ..of("minimal")
        },
        Case { cni: Some(&["repair.repairPods=false", "repair.deletePods=true", "image=registry.test/x:1"]), ..of("minimal") },
        Case { same: &["pilot.taint.enabled=true"], ..of("minimal") },
        Case {
            same: &[
                "pilot.taint.enabled=true",
                "pilot.taint.namespace=kube-system",
                "pilot.tolerations[0].operator=Exists",
                "pilot.env.A=b",
                "pilot.extraContainerArgs[0]=--no-analysis",
            ],
            ..of("secure")
        },
        Case { same: &["pilot.taint.namespace=kube-system"], ..of("minimal") },
        Case {
            same: &["global.networkPolicy.enabled=true"],
            gateway: &[
                ("kind=DaemonSet", "kind=DaemonSet"),
                ("rollingMaxSurge=0", "strategy.rollingUpdate.maxSurge=0"),
                ("rollingMaxUnavailable=25%", "strategy.rollingUpdate.maxUnavailable=25%"),
                ("volumes[0].name=more", "volumes[0].name=more"),
                ("volumeMounts[0].name=more", "volumeMounts[0].name=more"),
                ("volumeMounts[0].mountPath=/more", "volumeMounts[0].mountPath=/more"),
                ("secretVolumes[0].name=certs", "secretVolumes[0].name=certs"),
                ("secretVolumes[0].secretName=edge", "secretVolumes[0].secretName=edge"),
                ("secretVolumes[0].mountPath=/etc/certs", "secretVolumes[0].mountPath=/etc/certs"),
                ("configVolumes[0].name=pages", "configVolumes[0].name=pages"),
                ("configVolumes[0].configMapName=texts", "configVolumes[0].configMapName=texts"),
                ("configVolumes[0].mountPath=/pages", "configVolumes[0].mountPath=/pages"),
            ],
            ..of("default")
        },
        Case {
            gateway: &[
                ("secretVolumes[0].name=certs", "secretVolumes[0].name=certs"),
                ("secretVolumes[0].secretName=edge", "secretVolumes[0].secretName=edge"),
                ("secretVolumes[0].mountPath=/etc/certs", "secretVolumes[0].mountPath=/etc/certs"),
            ],
            ..of("secure")
        },
        Case {
            file: "pilot:\n  env:\n    LARGE: 5000000\n    FRACTION: 0.5\n    QUOTED: '007'\n  resources: null\n  podAnnotations:\n    large: 7000000\nglobal:\n  meshID: mesh1\n",
            ..of("minimal")
        },
    ]
}

#[test]
fn charts_are_in_order() {
    let Some(helm) = Programs::for_helm() else { return };
    for name in ["base", "istiod", "cni", "gateway"] {
        let output = run(Command::new(helm.path("helm")).args(["lint", "--strict", "-n", "istio-system"]).arg(chart(name)));
        assert!(output.code == 0 && output.out.contains("1 chart(s) linted, 0 chart(s) failed"), "{name}: {output:?}");
    }
}

#[test]
fn values_of_the_control_plane_may_stand_at_the_top() {
    let Some(helm) = Programs::for_helm() else { return };
    let render = |settings: &[&str]| Objects::of_charts(&template(&helm, "istio-system", "istiod", "istiod", &set(settings)).ok());
    let below = [
        "pilot.autoscaleEnabled=true",
        "pilot.env.A=b",
        "pilot.pdb.minAvailable=2",
        "pilot.serviceAnnotations.a=b",
        "pilot.taint.enabled=true",
    ];
    let above = ["autoscaleEnabled=true", "env.A=b", "pdb.minAvailable=2", "serviceAnnotations.a=b", "taint.enabled=true"];
    assert_eq!(differences(&render(&below), &render(&above)), [""; 0]);
    assert!(!differences(&render(&[]), &render(&above)).is_empty());
}

#[test]
fn a_gateway_elsewhere() {
    let Some(helm) = Programs::for_helm() else { return };
    let render = |settings: &[&str]| Objects::of_charts(&template(&helm, "edge", "istio-outer", "gateway", &set(settings)).ok());
    let plain = render(&["labels.team=net"]);
    let expected = [
        "Deployment edge/istio-outer",
        "PodDisruptionBudget edge/istio-outer",
        "Role edge/istio-outer-sds",
        "RoleBinding edge/istio-outer-istiod-credentials",
        "RoleBinding edge/istio-outer-sds",
        "Service edge/istio-outer",
        "ServiceAccount edge/istio-outer",
    ];
    assert_eq!(plain.titles().collect::<Vec<_>>(), expected);
    let deployment = plain.get("Deployment edge/istio-outer");
    let labels = serde_json::json!({ "app": "istio-outer", "istio": "outer", "sidecar.istio.io/inject": "true", "team": "net" });
    assert_eq!(deployment["spec"]["template"]["metadata"]["labels"], labels);
    assert_eq!(deployment["spec"]["template"]["spec"]["serviceAccountName"], "istio-outer");
    let reads = &plain.get("RoleBinding edge/istio-outer-istiod-credentials")["subjects"][0];
    assert_eq!((&reads["name"], &reads["namespace"]), (&"istiod".into(), &"istio-system".into()));

    let other = render(&[
        "kind=DaemonSet",
        "service.type=None",
        "rbac.enabled=false",
        "serviceAccount.create=false",
        "name=in",
        "labels.istio=door",
    ]);
    assert_eq!(other.titles().collect::<Vec<_>>(), ["DaemonSet edge/in", "PodDisruptionBudget edge/in"]);
    let spec = &other.get("DaemonSet edge/in")["spec"];
    assert!(spec.get("replicas").is_none() && spec.get("strategy").is_none(), "{spec}");
    assert_eq!(spec["updateStrategy"]["rollingUpdate"]["maxUnavailable"], 0);
    assert_eq!(spec["selector"]["matchLabels"]["istio"], "door");
}

#[test]
fn kinds_of_somebody_else() {
    let Some(helm) = Programs::for_helm() else { return };
    let name = "gateways.networking.istio.io";
    let render = |words: &[&str]| Objects::of_charts(&template(&helm, "istio-system", "base", "base", words).ok());
    let (all, fewer) = (render(&[]), render(&["--set", &format!("base.excludedCRDs[0]={name}")]));
    let kind = format!("CustomResourceDefinition {name}");
    assert!(all.titles().any(|title| title == kind) && !fewer.titles().any(|title| title == kind));
    assert_eq!(all.titles().count(), fewer.titles().count() + 1);
}

#[test]
fn what_charts_refuse() {
    let Some(helm) = Programs::for_helm() else { return };
    for (name, settings, named) in [
        ("istiod", &["pilot.noSuch=1"][..], &["/pilot", "noSuch"][..]),
        ("istiod", &["noSuch=1"], &["noSuch"]),
        ("istiod", &["pilot.replicaCount=many"], &["/pilot/replicaCount"]),
        ("istiod", &["pilot.pdb.minAvailable=1", "pilot.pdb.maxUnavailable=1"], &["/pilot/pdb"]),
        ("istiod", &["pilot.cni.provider=multus"], &["/pilot/cni/provider"]),
        ("istiod", &["taint.enabled=x", "pilot.taint.key=x"], &["/taint/enabled", "/pilot/taint", "key"]),
        ("cni", &["cni.chained=false", "ambient.enabled=true", "cni.logLevel=x"], &["/cni/chained", "/ambient/enabled", "logLevel"]),
        ("istiod", &["global.externalIstiod=true"], &["/global/externalIstiod"]),
        ("istiod", &["global.defaultTolerations[0].key=x"], &["/global", "defaultTolerations"]),
        ("istiod", &["global.istioNamespace=mesh"], &["/global/istioNamespace"]),
        ("istiod", &["global.jwtPolicy=none"], &["/global/jwtPolicy"]),
        ("istiod", &["sidecarInjectorWebhook.templates.mine=x"], &["/sidecarInjectorWebhook/templates"]),
        ("istiod", &["meshConfig.noSuch=1"], &["/meshConfig", "noSuch"]),
        ("istiod", &["meshConfig.defaultConfig.noSuch=1"], &["/meshConfig/defaultConfig", "noSuch"]),
        ("istiod", &["meshConfig.extensionProviders[0].noSuch=1"], &["/meshConfig/extensionProviders/0", "noSuch"]),
        ("istiod", &["meshConfig.configSources[0].tlsSettings.mode=SIMPLE"], &["/meshConfig/configSources/0/tlsSettings"]),
        ("istiod", &["meshConfig.rootNamespace=mesh"], &["meshConfig.rootNamespace: must be istio-system"]),
        ("istiod", &["revision=canary"], &["/revision"]),
        ("istiod", &["profile=ambient"], &["/profile"]),
        ("base", &["pilot.replicaCount=1"], &["pilot"]),
        ("base", &["defaultRevision=canary"], &["/defaultRevision"]),
        ("base", &["base.excludedCRDs[0]=x"], &["base.excludedCRDs: x is none of"]),
        ("gateway", &["kind=StatefulSet"], &["/kind"]),
        ("gateway", &["kind=DaemonSet", "autoscaling.enabled=true"], &["autoscaling.enabled: a DaemonSet"]),
        ("gateway", &["kind=DaemonSet", "replicaCount=2"], &["replicaCount: a DaemonSet"]),
        ("gateway", &["secretVolumes[0].name=x", "secretVolumes[0].secretName=y"], &["/secretVolumes/0", "mountPath"]),
        ("gateway", &["configVolumes[0].secretName=y"], &["/configVolumes/0", "secretName"]),
        ("gateway", &["networkGateway=n2"], &["/networkGateway"]),
        ("gateway", &["service.ipFamilyPolicy=Both"], &["/service/ipFamilyPolicy"]),
        ("istiod", &["pilot.ipFamilies[0]=IPv5"], &["/pilot/ipFamilies"]),
        ("gateway", &["podDisruptionBudget.minAvailable=1", "podDisruptionBudget.maxUnavailable=1"], &["/podDisruptionBudget"]),
        ("gateway", &["labels.helm\\.sh/chart=x"], &["labels: helm.sh/chart is the chart's own"]),
        ("gateway", &["securityContext.runAsUser=0"], &["securityContext"]),
    ] {
        let output = template(&helm, "istio-system", "x", name, &set(settings));
        assert!(output.code != 0, "{name} {settings:?} is taken");
        assert!(named.iter().all(|text| output.err.contains(text)), "{name} {settings:?}: {}", output.err);
    }
    for name in ["base", "istiod"] {
        let output = template(&helm, "mesh", "x", name, &[]);
        assert!(output.code != 0 && output.err.contains("the mesh is installed into istio-system alone"), "{name}: {output:?}");
    }
}
