//! What a container runtime calls: CNI 1.1, in its part of a chained plugin. A call's words are in the environment, its configuration is on standard
//! input, and its result or its error goes to standard output, as JSON.

use std::{
    io::Read,
    path::{Path, PathBuf},
    process::ExitCode,
};

use mizzen_capture::{Plan, Settings};
use mizzen_host::{NetNs, block_on};
use serde_json::{Map, Value, json};

use super::{
    ask::{Question, ask},
    wanted::{Annotations, wanted},
};

/// By this word a runtime passes the annotations of pods along: containerd since 1.6, CRI-O since 1.28.
pub(super) const ANNOTATIONS: &str = "io.kubernetes.cri.pod-annotations";
/// The versions of CNI in which plugins are chained.
const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// The longest configuration, in bytes, with the annotations of a pod and the results of other plugins.
const LONGEST: u64 = 4 << 20;

/// Codes of errors, by the specification; from 100 on they are the plugin's own.
const BAD_ENVIRONMENT: u32 = 4;
const UNREADABLE: u32 = 6;
const BAD_CONFIGURATION: u32 = 7;
const AGAIN: u32 = 11;
const NOT_CAPTURED: u32 = 100;

/// Why a call has failed.
#[derive(Debug, PartialEq, Eq)]
struct Failure {
    code: u32,
    message: String,
}

fn failure(code: u32, message: impl Into<String>) -> Failure {
    Failure { code, message: message.into() }
}

/// The words of a call.
#[derive(Clone, Debug, Default)]
struct Call {
    command: String,
    netns: String,
    args: String,
}

/// Answers the call that the environment has.
pub(super) fn main() -> ExitCode {
    let word = |name: &str| std::env::var(name).unwrap_or_default();
    let call = Call { command: word("CNI_COMMAND"), netns: word("CNI_NETNS"), args: word("CNI_ARGS") };
    let mut text = String::new();
    let read =
        std::io::stdin().take(LONGEST).read_to_string(&mut text).map_err(|error| failure(UNREADABLE, format!("standard input: {error}")));
    let answered = read.and_then(|_| answer(&call, &text));
    let (output, code) = match answered {
        Ok(output) => (output, ExitCode::SUCCESS),
        Err(Failure { code, message }) => {
            let version = serde_json::from_str::<Value>(&text).ok().and_then(|conf| conf["cniVersion"].as_str().map(str::to_owned));
            let version = version.unwrap_or_else(|| "1.0.0".to_owned());
            let error = json!({ "cniVersion": version, "code": code, "msg": format!("{}: {message}", super::PLUGIN) });
            (Some(error), ExitCode::FAILURE)
        }
    };
    match output.map(|output| crate::programs::print(&format!("{output}\n"))) {
        Some(Err(error)) => {
            eprintln!("{}: {error:#}", super::PLUGIN);
            ExitCode::FAILURE
        }
        _ => code,
    }
}

/// Does what a call asks; the result is what is printed.
fn answer(call: &Call, text: &str) -> Result<Option<Value>, Failure> {
    match call.command.as_str() {
        "VERSION" => Ok(Some(json!({ "cniVersion": "1.1.0", "supportedVersions": VERSIONS }))),
        "ADD" => add(call, &Conf::read(text)?).map(Some),
        "CHECK" => check(call, &Conf::read(text)?).map(|()| None),
        // The rules go with the namespace; whether a pod could be captured is not known before there is one.
        "DEL" | "GC" | "STATUS" => Ok(None),
        other => Err(failure(BAD_ENVIRONMENT, format!("CNI_COMMAND={other}: must be ADD, CHECK, DEL, GC, STATUS or VERSION"))),
    }
}

/// The plugin's configuration.
#[derive(Debug)]
struct Conf {
    /// What the plugins before it have made.
    result: Option<Value>,
    /// `None`: the runtime does not say.
    annotations: Option<Annotations>,
    excluded: Vec<String>,
    /// The agent's own namespace, about whose pods it is not asked: they have to start without it.
    agents: Option<String>,
    folder: PathBuf,
}

impl Conf {
    fn read(text: &str) -> Result<Conf, Failure> {
        let wrong = |why: String| failure(BAD_CONFIGURATION, why);
        let mut conf: Map<String, Value> =
            serde_json::from_str(text).map_err(|error| failure(UNREADABLE, format!("the configuration is no JSON: {error}")))?;
        let version = conf.get("cniVersion").and_then(Value::as_str).unwrap_or_default();
        if !VERSIONS.contains(&version) {
            return Err(failure(1, format!("cniVersion {version}: must be one of {}", VERSIONS.join(", "))));
        }
        let said = conf.get("runtimeConfig").and_then(|config| config.get(ANNOTATIONS));
        let annotations = match said {
            None => None,
            // A pod without any.
            Some(Value::Null) => Some(Annotations::new()),
            Some(said) => {
                Some(serde_json::from_value(said.clone()).map_err(|error| wrong(format!("runtimeConfig {ANNOTATIONS}: {error}")))?)
            }
        };
        let excluded = match conf.get("exclude_namespaces") {
            None | Some(Value::Null) => Vec::new(),
            Some(said) => serde_json::from_value(said.clone()).map_err(|error| wrong(format!("exclude_namespaces: {error}")))?,
        };
        let folder = conf.get("cni_agent_run_dir").and_then(Value::as_str).unwrap_or("/var/run/istio-cni").into();
        let agents = conf.get("pod_namespace").and_then(Value::as_str).map(str::to_owned);
        Ok(Conf { result: conf.remove("prevResult").filter(Value::is_object), annotations, excluded, agents, folder })
    }

    /// What is to be captured of the pod that is meant.
    fn wanted(&self, call: &Call) -> Result<Option<Settings>, Failure> {
        let word = |name: &str| {
            let pairs = call.args.split(';').filter_map(|pair| pair.split_once('='));
            pairs.filter(|(key, value)| *key == name && !value.is_empty()).map(|(_, value)| value.to_owned()).next_back()
        };
        // Not every container is a pod's.
        let (Some(namespace), Some(name)) = (word("K8S_POD_NAMESPACE"), word("K8S_POD_NAME")) else { return Ok(None) };
        if self.excluded.contains(&namespace) {
            return Ok(None);
        }
        let pod = format!("pod {namespace}/{name}");
        let asked;
        let annotations = match &self.annotations {
            Some(annotations) => annotations,
            None if self.agents.as_deref() == Some(namespace.as_str()) => return Ok(None),
            None => {
                let question = Question { namespace, name, uid: word("K8S_POD_UID") };
                asked = ask(&self.folder, &question).map_err(|why| {
                    failure(AGAIN, format!("{pod} waits: whether its connections are captured is not known, since {why}"))
                })?;
                &asked
            }
        };
        wanted(annotations).map_err(|why| failure(NOT_CAPTURED, format!("{pod} cannot be captured: {why}")))
    }
}

/// Sets the capture, if the pod is to have it. The pod's network stays what it was.
fn add(call: &Call, conf: &Conf) -> Result<Value, Failure> {
    let chained = "it has no prevResult: the plugin makes no network, and must be chained after one that does";
    let result = conf.result.clone().ok_or_else(|| failure(BAD_CONFIGURATION, chained))?;
    if let Some(settings) = conf.wanted(call)? {
        let netns = netns(call)?;
        let done = block_on(super::capture(&netns, Plan::new(&settings))).map_err(|error| failure(NOT_CAPTURED, error.to_string()))?;
        done.map_err(|why| failure(NOT_CAPTURED, why))?;
    }
    Ok(result)
}

/// Whether the capture is still there.
fn check(call: &Call, conf: &Conf) -> Result<(), Failure> {
    if conf.wanted(call)?.is_none() {
        return Ok(());
    }
    let netns = netns(call)?;
    let found = block_on(super::is_captured(&netns)).map_err(|error| failure(NOT_CAPTURED, error.to_string()))?;
    match found.map_err(|why| failure(NOT_CAPTURED, why))? {
        true => Ok(()),
        false => Err(failure(NOT_CAPTURED, "the pod's connections are not captured")),
    }
}

fn netns(call: &Call) -> Result<NetNs, Failure> {
    if call.netns.is_empty() {
        return Err(failure(BAD_ENVIRONMENT, "CNI_NETNS is empty"));
    }
    NetNs::open(Path::new(&call.netns)).map_err(|error| failure(BAD_ENVIRONMENT, format!("CNI_NETNS={}: {error}", call.netns)))
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader, Write},
        os::unix::net::UnixListener,
    };

    use super::{
        super::wanted::tests::{by_plugin, injected},
        *,
    };

    const POD: &str = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=reviews;K8S_POD_INFRA_CONTAINER_ID=c;K8S_POD_UID=u";

    fn conf(annotations: Option<Value>) -> Value {
        let mut conf = json!({
            "cniVersion": "1.0.0", "name": "pods", "type": "istio-cni", "exclude_namespaces": ["kube-system"], "pod_namespace": "istio-system",
            "cni_agent_run_dir": "/no/such/folder", "prevResult": { "cniVersion": "1.0.0", "ips": [{ "address": "10.0.0.2/24" }] },
        });
        if let Some(annotations) = annotations {
            conf["runtimeConfig"] = json!({ ANNOTATIONS: annotations });
        }
        conf
    }

    fn call(command: &str, args: &str) -> Call {
        Call { command: command.to_owned(), args: args.to_owned(), netns: "/no/such/netns".to_owned() }
    }

    fn mesh() -> Option<Value> {
        Some(json!(injected(json!({}), by_plugin())))
    }

    /// What comes of an ADD: an empty text is the result of the plugins before it.
    fn added(args: &str, conf: &Value, why: &str) {
        let got = answer(&call("ADD", args), &conf.to_string());
        match got {
            Ok(result) => assert_eq!((result.as_ref(), why), (Some(&conf["prevResult"]), ""), "{args} {conf}"),
            Err(error) => assert!(!why.is_empty() && error.message.contains(why), "{args} {conf}: {error:?}"),
        }
    }

    #[test]
    fn who_is_captured() {
        // There is no such namespace: who is to be captured fails there.
        added(POD, &conf(mesh()), "CNI_NETNS=/no/such/netns");
        added(POD, &conf(Some(json!({ "a": "b" }))), "");
        added(POD, &conf(Some(Value::Null)), "");
        added(POD, &conf(Some(json!(injected(json!({}), json!(null))))), "");
        added(&POD.replace("=shop", "=kube-system"), &conf(mesh()), "");
        added(&POD.replace("=shop", "=istio-system"), &conf(mesh()), "CNI_NETNS=/no/such/netns");
        added("IgnoreUnknown=1", &conf(mesh()), "");
        added(
            POD,
            &conf(Some(json!({ "sidecar.istio.io/status": "{" }))),
            "pod shop/reviews cannot be captured: annotation sidecar.istio.io/status",
        );
    }

    #[test]
    fn without_annotations_the_agent_has_to_be_there() {
        added(POD, &conf(None), "pod shop/reviews waits");
        added(&POD.replace("=shop", "=istio-system"), &conf(None), "");
        let error = answer(&call("ADD", POD), &conf(None).to_string()).unwrap_err();
        assert_eq!(error.code, AGAIN);
    }

    /// An agent is away while it is replaced. Where the runtime says what stands on a pod nobody needs it; else the pod waits, and is not let through.
    #[test]
    fn an_agent_that_is_away_or_does_not_know() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("pluginevent.sock");
        let of = |annotations: Option<Value>| {
            let mut conf = conf(annotations);
            conf["cni_agent_run_dir"] = json!(folder.path());
            conf
        };
        // The socket of one that was killed stays.
        drop(UnixListener::bind(&place).unwrap());
        added(
            POD,
            &of(None),
            "pod shop/reviews waits: whether its connections are captured is not known, since the node's agent (istio-cni-node)",
        );
        added(POD, &of(mesh()), "CNI_NETNS=/no/such/netns");
        added(POD, &of(Some(Value::Null)), "");
        std::fs::remove_file(&place).unwrap();
        let listener = UnixListener::bind(&place).unwrap();
        let annotations = |annotations: Value| json!({ "annotations": annotations }).to_string();
        for (answer, why) in [
            (json!({ "error": "there is no pod shop/reviews on node n1" }).to_string(), "since there is no pod shop/reviews on node n1"),
            (String::new(), "since the answer of the node's agent is none"),
            ("{".to_owned(), "since the answer of the node's agent is none"),
            (annotations(mesh().unwrap()), "CNI_NETNS=/no/such/netns"),
            (annotations(json!({})), ""),
        ] {
            let listener = listener.try_clone().unwrap();
            let agent = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let mut question = String::new();
                BufReader::new(&stream).read_line(&mut question).unwrap();
                stream.write_all(answer.as_bytes()).unwrap();
                question
            });
            added(POD, &of(None), why);
            let question: Value = serde_json::from_str(&agent.join().unwrap()).unwrap();
            assert_eq!(question, json!({ "namespace": "shop", "name": "reviews", "uid": "u" }));
        }
    }

    #[test]
    fn other_commands() {
        let text = conf(mesh()).to_string();
        let done = |command: &str, text: &str| answer(&call(command, POD), text).map_err(|error| error.code);
        for command in ["DEL", "GC", "STATUS"] {
            assert_eq!(done(command, &text), Ok(None), "{command}");
        }
        assert_eq!(done("CHECK", &conf(Some(Value::Null)).to_string()), Ok(None));
        assert_eq!(done("CHECK", &text), Err(BAD_ENVIRONMENT));
        assert_eq!(done("REMOVE", &text), Err(BAD_ENVIRONMENT));
        let versions = done("VERSION", "").unwrap().unwrap();
        assert!(versions["supportedVersions"].as_array().unwrap().contains(&json!("1.1.0")), "{versions}");
    }

    #[test]
    fn bad_configurations() {
        let done = |change: fn(&mut Value)| {
            let mut conf = conf(Some(Value::Null));
            change(&mut conf);
            answer(&call("ADD", POD), &conf.to_string()).map_err(|error| (error.code, error.message))
        };
        let (code, why) = done(|conf| conf["prevResult"] = Value::Null).unwrap_err();
        assert!(code == BAD_CONFIGURATION && why.contains("must be chained"), "{code} {why}");
        assert_eq!(done(|conf| conf["cniVersion"] = json!("0.2.0")).unwrap_err().0, 1);
        assert_eq!(done(|conf| conf["exclude_namespaces"] = json!("a")).unwrap_err().0, BAD_CONFIGURATION);
        assert_eq!(done(|conf| conf["runtimeConfig"] = json!({ ANNOTATIONS: [] })).unwrap_err().0, BAD_CONFIGURATION);
        assert_eq!(answer(&call("ADD", POD), "{").unwrap_err().code, UNREADABLE);
    }
}
