//! Names, which come on the proxy's stream.

use std::net::SocketAddr;

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use mizzen_agent::{Agent, Answer, NameTable};
use mizzen_protos::envoy::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DiscoveryRequest, aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
};
use mizzen_xds::types::{CLUSTER, INDEX, LISTENER, VIRTUAL_HOST};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{Setup, bootstrap, channel, proxy, subscribe, within};
use crate::control;

/// With names to answer.
async fn setup() -> Setup {
    let Setup { control, folder, mut options } = super::setup().await;
    options.dns = control.options(folder.path()).dns;
    Setup { control, folder, options }
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

async fn by_udp(server: SocketAddr, question: &Message) -> Message {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(&question.to_vec().unwrap(), server).await.unwrap();
    let mut buffer = vec![0; 4096];
    let (length, _) = within(socket.recv_from(&mut buffer)).await.unwrap();
    Message::from_vec(&buffer[..length]).unwrap()
}

async fn by_tcp(server: SocketAddr, question: &Message) -> Message {
    let mut stream = TcpStream::connect(server).await.unwrap();
    let bytes = question.to_vec().unwrap();
    stream.write_u16(bytes.len().try_into().unwrap()).await.unwrap();
    stream.write_all(&bytes).await.unwrap();
    let mut response = vec![0; within(stream.read_u16()).await.unwrap().into()];
    stream.read_exact(&mut response).await.unwrap();
    Message::from_vec(&response).unwrap()
}

fn outcome(question: &Message, response: &Message) -> String {
    assert_eq!((response.metadata.id, &response.queries), (question.metadata.id, &question.queries));
    let cut = if response.metadata.truncation { " cut" } else { "" };
    match response.metadata.response_code {
        ResponseCode::NoError => {
            let ips: Vec<String> = response.answers.iter().filter_map(|r| r.data.ip_addr()).map(|ip| ip.to_string()).collect();
            if ips.len() > 3 { format!("{} addresses{cut}", ips.len()) } else { format!("{}{cut}", ips.join(" ")) }
        }
        code => format!("{code:?}"),
    }
}

#[tokio::test]
async fn names() {
    let Setup { mut control, folder: _folder, mut options } = setup().await;
    options.dns.as_mut().unwrap().upstreams = vec![control::name_server().await];
    let agent = Agent::start(options.clone()).await.unwrap();
    let mut stream = proxy(&options, subscribe(CLUSTER, &["*"])).await;
    within(agent.ready()).await;
    let server = agent.dns_address().unwrap();
    use RecordType::{A, AAAA};
    for (name, kind, udp, tcp) in [
        ("reviews.shop.svc.cluster.local.", A, "10.96.0.1", "10.96.0.1"),
        ("reviews.shop.svc.cluster.local.", AAAA, "", ""),
        ("reviews.", A, "10.96.0.1", "10.96.0.1"),
        ("nobody.shop.svc.cluster.local.", A, "NXDomain", "NXDomain"),
        ("api.example.com.", A, "240.0.0.1", "240.0.0.1"),
        ("x.wild.example.", A, "240.0.0.2", "240.0.0.2"),
        ("outside.example.", A, "192.0.2.1", "192.0.2.1"),
        ("nothing.example.", A, "NXDomain", "NXDomain"),
        ("big.example.", A, " cut", "100 addresses"),
        ("broken.example.", A, "ServFail", "ServFail"),
    ] {
        let q = question(name, kind);
        assert_eq!(outcome(&q, &by_udp(server, &q).await), udp, "{name} {kind} by UDP");
        assert_eq!(outcome(&q, &by_tcp(server, &q).await), tcp, "{name} {kind} by TCP");
    }
    // A new table is live without a restart; the control plane's absence changes nothing.
    control.name("late.shop.svc.cluster.local", "10.96.0.9");
    let mut names = agent.names();
    let known = |n: &mizzen_agent::NameTable| n.find("late.shop.svc.cluster.local") != mizzen_agent::Answer::Absent;
    within(names.wait_for(known)).await.unwrap();
    // The proxy has got what it asked for, and nothing of that; there was one stream for both.
    assert_eq!(stream.next().await.type_url, CLUSTER);
    stream.requests.send(subscribe(CLUSTER, &["more"])).await.unwrap();
    assert_eq!(stream.next().await.type_url, CLUSTER);
    let mut answers = control.answers_to(4).await;
    answers.sort();
    assert_eq!((control.streams_opened(), answers.join(", ").as_str()), (1, "Cluster 1, Cluster 2, NameTable 1, NameTable 2"));
    control.stop().await;
    let q = question("late.shop.svc.cluster.local.", A);
    assert_eq!(outcome(&q, &by_udp(server, &q).await), "10.96.0.9");
}

/// Nobody answers before the table, and nobody upstream is asked for the mesh's names.
#[tokio::test]
async fn names_before_the_table() {
    let Setup { mut control, folder: _folder, options } = setup().await;
    control.stop().await;
    let agent = Agent::start(options).await.unwrap();
    let server = agent.dns_address().unwrap();
    for name in ["reviews.shop.svc.cluster.local.", "outside.example."] {
        let q = question(name, RecordType::A);
        assert_eq!(outcome(&q, &by_udp(server, &q).await), "ServFail", "{name}");
    }
}

/// One entry's change among thousands: names follow, the proxy gets what passes, and the name table beside it is not needed.
#[tokio::test]
async fn names_of_the_index() {
    let Setup { mut control, folder: _folder, options } = setup().await;
    let name = |n: u32| format!("s{n}.shop.svc.cluster.local");
    control.index((0..5000).map(|n| (name(n), Some(0x0a60_0000 + n))));
    let agent = Agent::start(options.clone()).await.unwrap();
    let mut stream = proxy(&options, subscribe(INDEX, &["*"])).await;
    let server = agent.dns_address().unwrap();
    let first = stream.next().await;
    assert_eq!((first.type_url.as_str(), first.resources.len()), (INDEX, 5000));
    // Names are given out once the proxy has answered.
    within(agent.ready()).await;
    let places = |names: &NameTable| -> Vec<usize> {
        let place = |n| match names.find(&name(n)) {
            Answer::Addresses(ips) => ips.as_ptr() as usize,
            other => panic!("{other:?}"),
        };
        (0..5000).map(place).collect()
    };
    let mut names = agent.names();
    let before = places(&names.borrow());
    control.index([(name(7), Some(0x0a00_0001))]);
    assert_eq!(stream.next().await.resources.len(), 1);
    let changed = |names: &NameTable| names.find("s7") == Answer::Addresses(&["10.0.0.1".parse().unwrap()]);
    let after = places(&within(names.wait_for(changed)).await.unwrap());
    assert_eq!(before.iter().zip(after).enumerate().filter(|(_, (b, a))| *b != a).map(|(n, _)| n).collect::<Vec<_>>(), [7]);
    control.index([(name(8), None)]);
    assert_eq!(stream.next().await.removed_resources, [name(8)]);
    within(names.wait_for(|names| names.find(&name(8)) == Answer::Absent)).await.unwrap();
    for (name, expected) in [
        ("s7.", "10.0.0.1"),
        ("s7.shop.", "10.0.0.1"),
        ("s9.shop.svc.cluster.local.", "10.96.0.9"),
        ("s8.shop.svc.cluster.local.", "NXDomain"),
    ] {
        let q = question(name, RecordType::A);
        assert_eq!(outcome(&q, &by_udp(server, &q).await), expected, "{name}");
    }
    assert_eq!(control.streams_opened(), 1);
    control.stop().await;
    let q = question("s7.", RecordType::A);
    assert_eq!(outcome(&q, &by_udp(server, &q).await), "10.0.0.1");
}

/// A proxy of the older variant: each type has nonces and versions of its own.
#[tokio::test]
async fn names_by_state_of_the_world() {
    let Setup { mut control, folder: _folder, options } = setup().await;
    let agent = Agent::start(options.clone()).await.unwrap();
    let (requests, receiver) = mpsc::channel(8);
    let ask = DiscoveryRequest { type_url: CLUSTER.to_owned(), node: bootstrap(&options).node, ..Default::default() };
    requests.send(ask).await.unwrap();
    let mut client = AggregatedDiscoveryServiceClient::new(channel(&options.dir.join("XDS")).await);
    let mut responses = within(client.stream_aggregated_resources(ReceiverStream::new(receiver))).await.unwrap().into_inner();
    within(agent.ready()).await;
    assert!(matches!(agent.names().borrow().find("reviews"), Answer::Addresses(_)));
    let first = within(responses.message()).await.unwrap().unwrap();
    assert_eq!((first.type_url.as_str(), first.nonce.as_str()), (CLUSTER, "Cluster 1"));
    control.name("late.shop.svc.cluster.local", "10.96.0.9");
    within(agent.names().wait_for(|n| n.find("late.shop.svc.cluster.local") != Answer::Absent)).await.unwrap();
    let ack = DiscoveryRequest {
        type_url: CLUSTER.to_owned(),
        response_nonce: first.nonce,
        version_info: first.version_info,
        ..Default::default()
    };
    requests.send(ack).await.unwrap();
    // In whatever order they came.
    let mut answers = control.answers_to(3).await;
    answers.sort();
    assert_eq!(answers, ["Cluster 1 1", "NameTable 1 1", "NameTable 2 2"]);
    assert_eq!(control.streams_opened(), 1);
}

/// What the proxy has asked for on demand is known when it starts again.
#[tokio::test]
async fn names_on_demand_are_remembered() {
    let Setup { control: _control, folder: _folder, options } = setup().await;
    assert!(mizzen_agent::remembered(&options).is_empty());
    let agent = Agent::start(options.clone()).await.unwrap();
    let mut stream = proxy(&options, subscribe(LISTENER, &["*"])).await;
    stream.next().await;
    for request in [
        subscribe(LISTENER, &["10.0.0.1_443", "0.0.0.0_8080"]),
        subscribe(VIRTUAL_HOST, &["80/a.example", "80/b.example"]),
        DeltaDiscoveryRequest { resource_names_unsubscribe: vec!["80/a.example".to_owned()], ..subscribe(VIRTUAL_HOST, &["80/c.example"]) },
    ] {
        stream.requests.send(request).await.unwrap();
        // Answered is noted.
        stream.next().await;
    }
    within(agent.shutdown()).await;
    let names: Vec<(String, String)> = mizzen_agent::remembered(&options);
    let expected = [(LISTENER, "0.0.0.0_8080"), (LISTENER, "10.0.0.1_443"), (VIRTUAL_HOST, "80/b.example"), (VIRTUAL_HOST, "80/c.example")];
    assert_eq!(names, expected.map(|(type_url, name)| (type_url.to_owned(), name.to_owned())));
}
