//! `mizzen explain`: decides a hypothetical call, step by step, with the code that the proxies run.

mod held;
mod text;

pub(crate) use held::late;

use std::{
    io::Read,
    net::IpAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use anyhow::{Context, Result, bail};
use mizzen_api::istio::{Gateway, Server};
use mizzen_explain::{Call, Explainer, Explanation, Payload, Source, Verdict};
use mizzen_model::{Reader, ServiceView, Snapshot};
use mizzen_types::{Hostname, Protocol};

use super::{
    output::{Form, print, render_form},
    place::Where,
    state::{self, State},
};

/// The exit code of what is refused.
const REFUSED: u8 = 1;
/// The exit code of what nobody here can know.
const UNKNOWN: u8 = 2;
/// The caller that is meant by `--from ingress` and is nobody's address (RFC 5737).
const SOMEBODY: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 9));
/// Of which port nobody says anything.
const HTTP_PORT: u16 = 80;
const HTTPS_PORT: u16 = 443;

/// Arguments of `explain`.
#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "Exit code: 0 if the call is allowed, 1 if it would be refused, 2 if that is unknown (only an outside answer could tell, or it \
depends on which way the call takes), 3 if the question cannot be asked."
)]
pub(crate) struct ExplainArgs {
    /// Who calls: a workload as POD, POD.NAMESPACE, NAMESPACE/POD or the name of its Deployment; `ingress` for somebody outside who calls through the
    /// ingress gateway; or an address that no pod has.
    #[arg(long, value_name = "WORKLOAD")]
    from: String,
    /// Who is called: a host as the program writes it, or an address, with a port unless the service has only one. Brackets around an IPv6 address. Or a
    /// URL of http or https.
    #[arg(long, value_name = "SERVICE[:PORT]")]
    to: String,
    /// The namespace of the caller, if its name does not say it.
    #[arg(short, long)]
    namespace: Option<String>,
    /// The method of the request.
    #[arg(long, value_name = "METHOD")]
    method: Option<String>,
    /// The path of the request, with its query.
    #[arg(long, value_name = "PATH")]
    path: Option<String>,
    /// A header of the request, as `NAME: VALUE`. May be given several times.
    #[arg(long = "header", short = 'H', value_name = "NAME: VALUE", value_parser = header)]
    headers: Vec<(String, String)>,
    /// A file that holds an end user's token, or `-` for standard input. It is sent as `Authorization: Bearer` and printed nowhere.
    #[arg(long, value_name = "FILE")]
    jwt: Option<PathBuf>,
    /// The request is sent over HTTP/2.
    #[arg(long)]
    http2: bool,
    /// The program sends bytes that are no HTTP. That is what is taken of a port that is declared so.
    #[arg(long, conflicts_with_all = ["method", "path", "headers", "jwt", "http2", "certificate"])]
    tcp: bool,
    /// The program itself speaks TLS.
    #[arg(long)]
    tls: bool,
    /// The server name that its TLS sends, if it is another one than the called host.
    #[arg(long, value_name = "NAME")]
    sni: Option<String>,
    /// Its TLS shows a certificate, of a kind that whoever asks for one accepts.
    #[arg(long)]
    certificate: bool,
    /// What external authorizers answer, where one is asked. Without it that is unknown.
    #[arg(long, value_name = "ANSWER")]
    authorizer: Option<Answer>,
    #[command(flatten)]
    of: state::From,
    /// The form of the output.
    #[arg(short, long, value_enum, default_value_t)]
    output: Form,
    /// All that was looked at, also what did not match.
    #[arg(short, long)]
    verbose: bool,
}

/// What an authorizer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Answer {
    /// It allows the request.
    Allow,
    /// It refuses it.
    Deny,
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or_else(|| format!("`{text}` is not of the form NAME: VALUE"))?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

pub(crate) async fn run(place: &Where, args: ExplainArgs) -> Result<ExitCode> {
    let mut state = args.of.read(place).await?;
    let bears = args.jwt.is_some() || !args.headers.is_empty();
    if bears {
        state.take_issuer_keys().await;
    }
    let call = call(&state.snapshot, &args, token(args.jwt.as_deref())?)?;
    let mut explanation = Explainer::new(&state.snapshot).call(&call)?;
    if bears {
        unfetched(&state.snapshot, &mut explanation);
    }
    let mut notes = Vec::new();
    if let State { mesh: Some(mesh), .. } = &state {
        notes = held::mark(mesh, &mut explanation).await;
    }
    hide(&mut explanation.call);
    print(&render_form(args.output, &explanation, || Ok(text::text(&explanation, &notes, args.verbose)))?)?;
    Ok(ExitCode::from(code(&explanation.verdict)))
}

/// Keys that the control plane has not fetched, or that are asked for without one: a token that is refused for want of them may be good.
fn unfetched(snapshot: &Arc<Snapshot>, explanation: &mut Explanation) {
    let reader = Reader::new(snapshot);
    let wanted = mizzen_model::wanted_keys(snapshot).into_iter();
    let missing: Vec<String> = wanted.filter(|(_, wanted)| reader.fetched_keys(&wanted.source).is_none()).map(|(name, _)| name).collect();
    if !missing.is_empty() && matches!(explanation.verdict, Verdict::Answered { status: 401, .. }) {
        let from = missing.join(", ");
        let why = format!("whether the token is good: the control plane fetches its issuer's keys ({from}), and they are not known here");
        explanation.verdict = Verdict::Unknown { why };
    }
}

/// 0 for what is allowed, 1 for what would be refused, 2 for what cannot be said.
fn code(verdict: &Verdict) -> u8 {
    match verdict {
        Verdict::Delivered => 0,
        Verdict::Answered { status, .. } if *status < 400 => 0,
        Verdict::Denied { .. } | Verdict::Answered { .. } | Verdict::Closed { .. } => REFUSED,
        Verdict::Unknown { .. } => UNKNOWN,
        Verdict::Differs { verdicts } => {
            let mut codes = verdicts.iter().map(code);
            let first = codes.next().unwrap_or(UNKNOWN);
            if codes.all(|code| code == first) { first } else { UNKNOWN }
        }
    }
}

/// What stands for who somebody is goes nowhere.
fn hide(call: &mut Call) {
    if let Payload::Http { headers, .. } = &mut call.payload {
        for (name, value) in headers {
            if ["authorization", "cookie", "proxy-authorization"].iter().any(|secret| name.eq_ignore_ascii_case(secret)) {
                "(hidden)".clone_into(value);
            }
        }
    }
}

/// The token in a file.
fn token(path: Option<&Path>) -> Result<Option<String>> {
    let Some(path) = path else { return Ok(None) };
    let mut text = String::new();
    if path == Path::new("-") {
        std::io::stdin().read_to_string(&mut text).context("--jwt -")?;
    } else {
        text = std::fs::read_to_string(path).with_context(|| format!("--jwt {}", path.display()))?;
    }
    let token = text.trim();
    if token.is_empty() || token.contains(char::is_whitespace) {
        bail!("--jwt: what is read is no token: one word is expected");
    }
    Ok(Some(token.to_owned()))
}

fn call(snapshot: &Snapshot, args: &ExplainArgs, token: Option<String>) -> Result<Call> {
    let asked = Asked::of(args)?;
    let (args, host, port) = (&asked.args, asked.host, asked.port);
    if args.from == "ingress" {
        return through_gateway(snapshot, args, (&host, port, asked.scheme), token);
    }
    let (from, namespace) = match args.from.parse::<IpAddr>() {
        Ok(ip) => (Source::Address(ip), args.namespace.clone().unwrap_or_else(|| "default".to_owned())),
        Err(_) => {
            let pod = state::find_pod(snapshot, &args.from, args.namespace.as_deref()).context("--from")?;
            let name = format!("{}/{}", pod.meta.namespace, pod.meta.name);
            (Source::Workload(name), pod.meta.namespace.to_string())
        }
    };
    let service = service(snapshot, &host, &namespace);
    let port = match (port, &service) {
        (Some(port), _) => port,
        (None, None) => HTTP_PORT,
        (None, Some(service)) => only_port(service)?,
    };
    let protocol = service.as_ref().and_then(|service| Some(service.port(port)?.protocol));
    Ok(Call {
        from,
        host,
        port,
        payload: payload(args, protocol, token),
        random: None,
        at: now(),
        outside: outside(args),
        endpoints: ENDPOINTS,
    })
}

/// Endpoints of a cluster that are followed to their own proxies, at most.
const ENDPOINTS: usize = 32;

/// The call is made now, in seconds since 1970: tokens are good or not by that.
fn now() -> Option<u64> {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).ok().map(|since| since.as_secs())
}

fn outside(args: &ExplainArgs) -> Option<bool> {
    args.authorizer.map(|answer| answer == Answer::Allow)
}

/// Whether what is asked for has to be a request, but for its token.
fn is_request(args: &ExplainArgs) -> bool {
    args.method.is_some() || args.path.is_some() || !args.headers.is_empty() || args.http2 || args.certificate
}

/// What is sent, by what is asked for, else by what the port is declared as.
fn payload(args: &ExplainArgs, protocol: Option<Protocol>, token: Option<String>) -> Payload {
    let is_request = is_request(args) || token.is_some();
    let by_port = match protocol {
        Some(Protocol::Tcp | Protocol::Mongo | Protocol::Mysql | Protocol::Redis) => Payload::Tcp,
        Some(Protocol::Tls | Protocol::Https) => Payload::Tls { server_name: args.sni.clone() },
        _ if args.tcp => Payload::Tcp,
        _ => request(args, protocol, token.clone()),
    };
    match (is_request, args.tcp, args.tls, &by_port) {
        (true, ..) => request(args, protocol, token),
        (_, true, true, _) => Payload::Tls { server_name: args.sni.clone() },
        (_, true, false, _) => Payload::Tcp,
        _ => by_port,
    }
}

fn request(args: &ExplainArgs, protocol: Option<Protocol>, token: Option<String>) -> Payload {
    let is_grpc = protocol == Some(Protocol::Grpc);
    let mut headers = args.headers.clone();
    headers.extend(token.map(|token| ("authorization".to_owned(), format!("Bearer {token}"))));
    Payload::Http {
        method: args.method.clone().unwrap_or_else(|| if is_grpc { "POST" } else { "GET" }.to_owned()),
        path: args.path.clone().unwrap_or_else(|| "/".to_owned()),
        headers,
        http2: args.http2 || matches!(protocol, Some(Protocol::Grpc | Protocol::Http2)),
        tls: args.tls,
        server_name: args.sni.clone(),
        certificate: args.certificate,
    }
}

/// A call of somebody outside to the gateway's own address, for the host: the server that serves it says how it comes, as far as nobody else does.
fn through_gateway(
    snapshot: &Snapshot,
    args: &ExplainArgs,
    (host, port, scheme): (&str, Option<u16>, Option<Scheme>),
    token: Option<String>,
) -> Result<Call> {
    let doors = doors(snapshot);
    if doors.is_empty() {
        bail!("--from ingress: there is no Gateway, or no pod that one selects");
    }
    let fits = |door: &&Door<'_>| {
        let of_scheme = scheme.is_none_or(|scheme| door.server.is_tls() == (scheme == Scheme::Https));
        port.map_or(of_scheme, |port| door.server.port.number == port)
    };
    // By its server name TLS finds one; where nobody serves the host, what its port says of itself still holds.
    let wanted = args.sni.as_deref().unwrap_or(host).parse::<Hostname>().ok();
    let rank = |door: &Door<'_>| door.server.hosts.iter().filter_map(|own| closeness(&own.host, wanted.as_ref())).max();
    let served = doors.iter().filter(fits).filter(|door| rank(door).is_some()).rev().max_by_key(|door| rank(door));
    let door = served.or_else(|| doors.iter().find(fits));
    let ip = door.or(doors.first()).map(|door| door.ip).context("--from ingress: no pod")?;
    let Some(port) = port.or_else(|| door.map(|door| door.server.port.number)) else {
        bail!("--from ingress: no Gateway has a port for {}", if scheme == Some(Scheme::Https) { "https" } else { "http" })
    };
    let server = door.map(|door| door.server);
    let tls = args.tls || args.sni.is_some() || server.is_some_and(Server::is_tls);
    let mut payload = match is_request(args) || token.is_some() || (!args.tcp && server.is_none_or(Server::is_http)) {
        true => request(args, None, token),
        false if tls => Payload::Tls { server_name: Some(args.sni.clone().unwrap_or_else(|| host.to_owned())) },
        false => Payload::Tcp,
    };
    if let Payload::Http { headers, tls: over_tls, .. } = &mut payload {
        // Who says http means it.
        *over_tls = tls && scheme != Some(Scheme::Http);
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            headers.push(("host".to_owned(), host.to_owned()));
        }
    }
    // The gateway listens where its service leads to.
    let instances = Reader::new(snapshot).instances(ip);
    let target = instances.iter().find(|instance| instance.port == port).map_or(port, |instance| instance.target);
    Ok(Call {
        from: Source::Address(SOMEBODY),
        host: ip.to_string(),
        port: target,
        payload,
        random: None,
        at: now(),
        outside: outside(args),
        endpoints: ENDPOINTS,
    })
}

/// A server of a Gateway, at a pod that the Gateway selects.
struct Door<'s> {
    ip: IpAddr,
    server: &'s Server,
}

fn doors(snapshot: &Snapshot) -> Vec<Door<'_>> {
    let gateways: Vec<&Gateway> = snapshot.objects::<Gateway>().collect();
    let pods = snapshot.objects::<mizzen_api::core::Pod>().filter_map(|pod| Some((pod, pod.status.pod_ip?)));
    let of_pod = |(pod, ip): (&mizzen_api::core::Pod, IpAddr)| -> Vec<Door<'_>> {
        let own = gateways.iter().filter(|gateway| gateway.selector.matches(&pod.meta.labels));
        own.flat_map(|gateway| gateway.servers.iter().map(move |server| Door { ip, server })).collect()
    };
    pods.flat_map(of_pod).collect()
}

/// How close a server's host comes to the one that is wanted: the longest that covers it is the closest, and the same one before all.
fn closeness(own: &Hostname, wanted: Option<&Hostname>) -> Option<usize> {
    match wanted {
        Some(wanted) if own == wanted => Some(usize::MAX),
        Some(wanted) => own.covers(wanted).then_some(own.as_str().len()),
        // An address is served by who serves all.
        None => (own.as_str() == "*").then_some(1),
    }
}

/// What a URL says of how it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheme {
    Http,
    Https,
}

/// What is asked, with what a URL says put where the options have it.
struct Asked {
    args: ExplainArgs,
    host: String,
    port: Option<u16>,
    scheme: Option<Scheme>,
}

impl Asked {
    fn of(args: &ExplainArgs) -> Result<Asked> {
        let mut args = args.clone();
        let (scheme, rest) = match args.to.split_once("://") {
            None => (None, args.to.as_str()),
            Some(("http", rest)) => (Some(Scheme::Http), rest),
            Some(("https", rest)) => (Some(Scheme::Https), rest),
            Some((other, _)) => bail!("--to {}: `{other}` is neither http nor https", args.to),
        };
        let (authority, path) = match scheme {
            Some(_) => rest.split_at(rest.find('/').unwrap_or(rest.len())),
            None => (rest, ""),
        };
        let (host, port) = host_port(authority).with_context(|| format!("--to {}", args.to))?;
        if scheme.is_some() {
            if args.tcp {
                bail!("--tcp: {} is a request", args.to);
            }
            let path = if path.is_empty() { "/" } else { path };
            args.path = Some(args.path.unwrap_or_else(|| path.to_owned()));
        }
        if scheme == Some(Scheme::Http) && (args.tls || args.sni.is_some() || args.certificate) {
            bail!("--to {}: what is said of TLS has no place beside http", args.to);
        }
        args.tls |= scheme == Some(Scheme::Https) || args.sni.is_some() || args.certificate;
        // At a gateway the port says how it is called; elsewhere the scheme does.
        let usual = if args.tls { HTTPS_PORT } else { HTTP_PORT };
        let port = port.or_else(|| scheme.filter(|_| args.from != "ingress").map(|_| usual));
        Ok(Asked { args, host, port, scheme })
    }
}

/// `HOST`, `HOST:PORT`, `[::1]:PORT`.
fn host_port(text: &str) -> Result<(String, Option<u16>)> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let port = port.map(|port| port.parse().ok().filter(|port| *port > 0).with_context(|| format!("`{port}` is no port")));
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() {
        bail!("there is no host");
    }
    Ok((host.to_owned(), port.transpose()?))
}

/// The service that a program in a namespace means by a host.
fn service(snapshot: &Snapshot, host: &str, namespace: &str) -> Option<Arc<ServiceView>> {
    let reader = Reader::new(snapshot);
    let names = [host.to_owned(), format!("{host}.{namespace}.svc.cluster.local"), format!("{host}.svc.cluster.local")];
    let ip = host.parse::<IpAddr>().ok();
    let has = |service: &ServiceView, ip| service.vips().any(|vip| vip == ip) || service.allocated.contains(&ip);
    let by_address = || reader.services().find(|service| ip.is_some_and(|ip| has(service, ip)));
    let by_name = names.iter().filter_map(|name| name.parse::<Hostname>().ok()).find_map(|name| reader.service(&name, namespace));
    by_name.or_else(by_address).cloned()
}

fn only_port(service: &ServiceView) -> Result<u16> {
    let ports: Vec<_> = service.ports.iter().filter(|port| port.protocol != Protocol::Udp).collect();
    match &ports[..] {
        [only] => Ok(only.port),
        [] => bail!("--to {}: the service has no port", service.host),
        several => {
            let ports: Vec<String> = several.iter().map(|port| port.port.to_string()).collect();
            bail!("--to {}: say which port: {}", service.host, ports.join(", "))
        }
    }
}

/// All that is said of a call, for tests.
#[cfg(test)]
fn explained(snapshot: &Arc<Snapshot>, words: &str) -> Result<Explanation> {
    use clap::Parser;
    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: ExplainArgs,
    }
    let words = std::iter::once("explain").chain(words.split_whitespace().map(|word| if word == "_" { " " } else { word }));
    let args = Line::try_parse_from(words)?.args;
    let call = call(snapshot, &args, None)?;
    Ok(Explainer::new(snapshot).call(&call)?)
}

#[cfg(test)]
mod tests {
    use super::{
        super::state::tests::{deployment, snapshot},
        *,
    };

    pub(super) fn shop() -> Arc<Snapshot> {
        let fixed = "
{kind: Service, apiVersion: v1, metadata: {name: reviews, namespace: shop}, spec: {selector: {app: reviews}, ports: [{name: http, port: 9080, targetPort: 8080}]}}
---
{kind: Service, apiVersion: v1, metadata: {name: stock, namespace: shop}, spec: {selector: {app: stock}, ports: [{name: tcp, port: 7070}, {name: http, port: 80}]}}
---
kind: AuthorizationPolicy
apiVersion: security.istio.io/v1
metadata: {name: reviews-from-web, namespace: shop}
spec:
  selector: {matchLabels: {app: reviews}}
  rules:
  - from: [{source: {principals: [cluster.local/ns/shop/sa/web]}}]
    to: [{operation: {methods: [GET], paths: ['/reviews/*']}}]
---
{kind: Gateway, apiVersion: networking.istio.io/v1, metadata: {name: door, namespace: shop},
 spec: {selector: {istio: ingressgateway}, servers: [
  {port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']},
  {port: {number: 443, name: tls, protocol: TLS}, hosts: ['*'], tls: {mode: PASSTHROUGH}},
  {port: {number: 444, name: https, protocol: HTTPS}, hosts: [secure.example], tls: {mode: SIMPLE, credentialName: secure}},
  {port: {number: 444, name: mutual, protocol: HTTPS}, hosts: ['*.mutual.example'], tls: {mode: MUTUAL, credentialName: mutual}},
  {port: {number: 9000, name: tcp, protocol: TCP}, hosts: ['*']}]}}
---
{kind: VirtualService, apiVersion: networking.istio.io/v1, metadata: {name: door, namespace: shop},
 spec: {hosts: ['*'], gateways: [door], http: [{route: [{destination: {host: stock, port: {number: 80}}}]}],
  tls: [{match: [{sniHosts: [a.example]}], route: [{destination: {host: stock, port: {number: 7070}}}]}],
  tcp: [{match: [{port: 9000}], route: [{destination: {host: stock, port: {number: 7070}}}]}]}}
";
        let apps = [("reviews-v1", "reviews"), ("reviews-v2", "reviews"), ("stock", "stock"), ("web", "web"), ("guest", "guest")];
        snapshot(&(fixed.to_owned() + &apps.map(|(name, account)| deployment("shop", name, account)).concat()))
    }

    #[test]
    fn verdicts_and_codes() {
        let shop = shop();
        for (words, expected, exit) in [
            ("--from web --to reviews --path /reviews/1", "delivered", 0),
            ("--from web --to reviews:9080 --path /other", "denied", 1),
            ("--from guest.shop --to reviews.shop --path /reviews/1", "denied", 1),
            ("--from shop/web --to reviews --path /reviews/1 --method POST", "denied", 1),
            ("--from web --to stock:7070", "delivered", 0),
            ("--from ingress --to shop.example.com", "delivered", 0),
            ("--from ingress --to a.example:443", "delivered", 0),
            ("--from ingress --to a.example:443 --path /", "delivered", 0),
            ("--from ingress --to b.example:443", "closed", 1),
            ("--from ingress --to b.example:9000", "delivered", 0),
            ("--from ingress --to b.example:9001 --tcp", "closed", 1),
            ("--from ingress --to http://shop.example.com/books", "delivered", 0),
            ("--from ingress --to https://secure.example/books", "delivered", 0),
            ("--from ingress --to secure.example:444", "delivered", 0),
            ("--from ingress --to https://a.mutual.example:444", "closed", 1),
            ("--from ingress --to https://a.mutual.example --certificate", "delivered", 0),
            // Which server it is, the server name says, and its routes are for its own hosts.
            ("--from ingress --to https://secure.example:444 --sni a.mutual.example", "closed", 1),
            ("--from ingress --to https://a.mutual.example:444 --sni secure.example", "answered 404", 1),
            ("--from ingress --to https://nobody.example:444", "closed", 1),
            ("--from ingress --to http://secure.example:444", "closed", 1),
            ("--from web --to https://example.net/", "delivered", 0),
            ("--from 192.0.2.77 --to reviews.shop --path /reviews/1", "denied", 1),
            ("--from web --to reviews:1", "delivered", 0),
        ] {
            let explanation = explained(&shop, words).unwrap_or_else(|error| panic!("{words}: {error:#}"));
            let said = explanation.verdict.to_string();
            assert!(said.starts_with(expected), "{words}: {said}\n{explanation}");
            assert_eq!(code(&explanation.verdict), exit, "{words}");
        }
    }

    #[test]
    fn questions_that_cannot_be_asked() {
        let shop = shop();
        for (words, expected) in [
            ("--from wen --to reviews", "did you mean `web`?"),
            ("--from web --to stock", "say which port: 7070, 80"),
            ("--from web --to reviews:http", "`http` is no port"),
            ("--from web --to :80", "--to :80: there is no host"),
            ("--from web --to ftp://reviews", "`ftp` is neither http nor https"),
            ("--from web --to http://reviews --sni a.example", "has no place beside http"),
            ("--from web --to https://reviews --tcp", "is a request"),
            ("--from web --to reviews --header nonsense", "is not of the form NAME: VALUE"),
            ("--from web --to reviews --tcp --path /x", "cannot be used with"),
        ] {
            let error = format!("{:#}", explained(&shop, words).map(|found| found.verdict).expect_err(words));
            assert!(error.contains(expected), "{words}: {error}");
        }
    }

    #[test]
    fn codes_of_what_depends() {
        let delivered = Verdict::Delivered;
        let closed = Verdict::Closed { why: "x".to_owned() };
        let differs = |verdicts: &[&Verdict]| Verdict::Differs { verdicts: verdicts.iter().map(|one| (*one).clone()).collect() };
        assert_eq!(code(&differs(&[&delivered, &closed])), UNKNOWN);
        assert_eq!(code(&differs(&[&closed, &Verdict::Answered { status: 503, why: String::new() }])), REFUSED);
        assert_eq!(code(&Verdict::Answered { status: 301, why: String::new() }), 0);
        assert_eq!(code(&Verdict::Unknown { why: String::new() }), UNKNOWN);
    }

    #[test]
    fn tokens_are_hidden() {
        let headers = vec![("Authorization".to_owned(), "Bearer secret".to_owned()), ("x".to_owned(), "kept".to_owned())];
        let payload = Payload::Http {
            method: "GET".to_owned(),
            path: "/".to_owned(),
            headers,
            http2: false,
            tls: false,
            server_name: None,
            certificate: false,
        };
        let mut call = Call {
            from: Source::Address(SOMEBODY),
            host: "a".to_owned(),
            port: 1,
            payload,
            random: None,
            at: None,
            outside: None,
            endpoints: 1,
        };
        hide(&mut call);
        let text = serde_json::to_string(&call).unwrap();
        assert!(!text.contains("secret") && text.contains("kept"), "{text}");
    }
}
