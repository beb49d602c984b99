//! What is answered to a question, without IO.

use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use hickory_proto::op::{Edns, Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, SOA};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use super::{UDP_MAX, UDP_MIN};
use crate::{Answer, NameTable};

/// How long clients may keep an answer, in seconds. Short, since the mesh changes.
const TTL: u32 = 5;
/// Answers to one question; more would not fit into any response that a client expects.
const MAX_ANSWERS: usize = 512;

/// What to do with a message.
pub(super) enum Decision {
    /// Send this.
    Respond(Vec<u8>),
    /// It is no question.
    Drop,
    /// Ask upstream.
    Forward {
        /// The parsed question.
        question: Box<Message>,
        /// How long the response may be.
        limit: usize,
        /// The name that is asked about in the place of the question's own, of which that one is another name.
        alias: Option<Name>,
    },
}

/// Decides by the table alone.
pub(super) fn decide(bytes: &[u8], table: &NameTable, udp: bool) -> Decision {
    let question = match Message::from_vec(bytes) {
        Ok(message) if message.metadata.message_type == MessageType::Query => message,
        Ok(_) => return Decision::Drop,
        Err(_) => return malformed(bytes),
    };
    let limit = if !udp {
        usize::from(u16::MAX)
    } else if question.edns.is_some() {
        question.max_payload().clamp(UDP_MIN, UDP_MAX).into()
    } else {
        UDP_MIN.into()
    };
    let respond = |response: Message| encode(response, limit).map_or(Decision::Drop, Decision::Respond);
    if question.metadata.op_code != OpCode::Query {
        return respond(response(&question, ResponseCode::NotImp));
    }
    let [query] = question.queries.as_slice() else { return respond(response(&question, ResponseCode::FormErr)) };
    if query.query_class() != DNSClass::IN {
        return respond(response(&question, ResponseCode::Refused));
    }
    let name = query.name().to_ascii();
    let local = table.is_local(name.trim_end_matches('.').to_ascii_lowercase().as_str());
    match table.find(&name) {
        Answer::Addresses(ips) => match query.query_type() {
            kind @ (RecordType::A | RecordType::AAAA) => respond(addresses(&question, query.name(), kind, ips)),
            // Other records of outside names (mail, service records) are not the mesh's to deny.
            _ if !local => Decision::Forward { question: Box::new(question), limit, alias: None },
            _ => respond(negative(&question, query.name(), ResponseCode::NoError)),
        },
        Answer::Absent => respond(negative(&question, query.name(), ResponseCode::NXDomain)),
        Answer::Unknown => respond(response(&question, ResponseCode::ServFail)),
        Answer::Foreign => Decision::Forward { question: Box::new(question), limit, alias: None },
        Answer::Alias(target) => match Name::from_ascii(format!("{target}.")) {
            Ok(target) if query.query_type() == RecordType::CNAME => respond(named(&question, query.name(), target)),
            Ok(target) => Decision::Forward { question: Box::new(question), limit, alias: Some(target) },
            Err(_) => respond(response(&question, ResponseCode::ServFail)),
        },
    }
}

/// The question about what a name stands for.
pub(super) fn about(question: &Message, target: &Name) -> Option<Vec<u8>> {
    let mut asked = question.clone();
    for query in &mut asked.queries {
        query.set_name(target.clone());
    }
    asked.to_vec().ok()
}

/// The response to a question by that to [`about`] it: the name stands for the other one, and what was said of that follows.
pub(super) fn under(question: &Message, target: &Name, said: &[u8]) -> Option<Vec<u8>> {
    let (said, query) = (Message::from_vec(said).ok()?, question.queries.first()?);
    let mut message = named(question, query.name(), target.clone());
    message.metadata.response_code = said.metadata.response_code;
    message.metadata.truncation = said.metadata.truncation;
    message.add_answers(said.answers.into_iter().take(MAX_ANSWERS));
    message.add_authorities(said.authorities);
    message.to_vec().ok()
}

fn named(question: &Message, name: &Name, target: Name) -> Message {
    let mut message = response(question, ResponseCode::NoError);
    message.add_answers([Record::from_rdata(name.clone(), TTL, RData::CNAME(CNAME(target)))]);
    message
}

/// The upstream's response, cut if it is too long for how the client came.
pub(super) fn fit(bytes: Vec<u8>, question: &Message, limit: usize) -> Vec<u8> {
    if bytes.len() <= limit {
        return bytes;
    }
    let cut = match Message::from_vec(&bytes) {
        Ok(message) => message.truncate(),
        Err(_) => response(question, ResponseCode::ServFail),
    };
    encode(cut, limit).unwrap_or_default()
}

/// SERVFAIL.
pub(super) fn failure(question: &Message) -> Option<Vec<u8>> {
    encode(response(question, ResponseCode::ServFail), UDP_MIN.into())
}

fn malformed(bytes: &[u8]) -> Decision {
    match bytes {
        // The top bit of the third byte says that it is a response: those are never answered.
        [high, low, flags, ..] if bytes.len() >= 12 && flags & 0x80 == 0 => {
            let id = u16::from_be_bytes([*high, *low]);
            let message = Message::error_msg(id, OpCode::Query, ResponseCode::FormErr);
            message.to_vec().map_or(Decision::Drop, Decision::Respond)
        }
        _ => Decision::Drop,
    }
}

fn response(question: &Message, code: ResponseCode) -> Message {
    let mut message = Message::response(question.metadata.id, question.metadata.op_code);
    message.metadata.response_code = code;
    message.metadata.recursion_desired = question.metadata.recursion_desired;
    message.metadata.recursion_available = true;
    message.add_queries(question.queries.iter().cloned());
    if question.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_MAX);
        message.set_edns(edns);
    }
    message
}

fn addresses(question: &Message, name: &Name, kind: RecordType, ips: &[IpAddr]) -> Message {
    let data = |ip: &IpAddr| match (kind, ip) {
        (RecordType::A, IpAddr::V4(ip)) => Some(RData::A(A(*ip))),
        (RecordType::AAAA, IpAddr::V6(ip)) => Some(RData::AAAA(AAAA(*ip))),
        _ => None,
    };
    let mut found: Vec<RData> = ips.iter().filter_map(data).take(MAX_ANSWERS).collect();
    if found.is_empty() {
        return negative(question, name, ResponseCode::NoError);
    }
    // Clients take the first: let it be another one each time.
    static TURN: AtomicUsize = AtomicUsize::new(0);
    let by = TURN.fetch_add(1, Ordering::Relaxed) % found.len();
    found.rotate_left(by);
    let mut message = response(question, ResponseCode::NoError);
    message.metadata.authoritative = true;
    message.add_answers(found.into_iter().map(|data| Record::from_rdata(name.clone(), TTL, data)));
    message
}

/// No such name, or no such record: with an SOA, that the client may remember it for a moment.
fn negative(question: &Message, name: &Name, code: ResponseCode) -> Message {
    let mut message = response(question, code);
    message.metadata.authoritative = true;
    let parent = name.base_name();
    if let Ok(contact) = Name::from_ascii("hostmaster").and_then(|h| h.append_domain(&parent)) {
        let soa = SOA::new(parent.clone(), contact, 1, 3600, 600, 86400, TTL);
        message.add_authority(Record::from_rdata(parent, TTL, RData::SOA(soa)));
    }
    message
}

fn encode(message: Message, limit: usize) -> Option<Vec<u8>> {
    let bytes = message.to_vec().ok()?;
    if bytes.len() <= limit { Some(bytes) } else { message.truncate().to_vec().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::Query;
    use mizzen_protos::nds;

    fn table(count: usize) -> NameTable {
        let info = |ips: Vec<String>| nds::name_table::NameInfo { ips, registry: "Kubernetes".to_owned(), ..Default::default() };
        let many = (0..count).map(|i| format!("10.0.{}.{}", i / 250, i % 250)).collect();
        let table = [
            ("a.shop.svc.cluster.local", vec!["10.96.0.1".to_owned()]),
            ("many.shop.svc.cluster.local", many),
            ("api.example.com", vec!["240.0.0.1".to_owned()]),
        ];
        let mut message = nds::NameTable { table: table.into_iter().map(|(n, ips)| (n.to_owned(), info(ips))).collect() };
        let mail = nds::name_table::NameInfo { alias_of: "mail.example.net".to_owned(), ..Default::default() };
        message.table.insert("mail.shop.svc.cluster.local".to_owned(), mail);
        let mut names = NameTable::empty("shop", &["cluster.local".to_owned()]);
        names.replace(&message);
        names
    }

    fn question(name: &str, kind: RecordType) -> Message {
        let mut message = Message::query();
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        message
    }

    /// Code, answers, authorities, truncated; or what else is done.
    fn check(message: &Message, udp: bool) -> String {
        match decide(&message.to_vec().unwrap(), &table(300), udp) {
            Decision::Drop => "drop".to_owned(),
            Decision::Forward { limit, alias: None, .. } => format!("forward {limit}"),
            Decision::Forward { limit, alias: Some(target), .. } => format!("forward {limit} about {target}"),
            Decision::Respond(bytes) => {
                let r = Message::from_vec(&bytes).unwrap();
                assert_eq!((r.metadata.id, &r.queries), (message.metadata.id, &message.queries));
                assert!(!udp || bytes.len() <= usize::from(message.max_payload()));
                let (code, cut) = (r.metadata.response_code, if r.metadata.truncation { " cut" } else { "" });
                format!("{code:?} {} {}{cut}", r.answers.len(), r.authorities.len())
            }
        }
    }

    #[test]
    fn decisions() {
        use RecordType::{A, AAAA, MX, TXT};
        for (name, kind, expected) in [
            ("a.shop.svc.cluster.local.", A, "NoError 1 0"),
            ("A.Shop.svc.cluster.local.", A, "NoError 1 0"),
            ("a.shop.svc.cluster.local.", AAAA, "NoError 0 1"),
            ("a.shop.svc.cluster.local.", TXT, "NoError 0 1"),
            ("b.shop.svc.cluster.local.", A, "NXDomain 0 1"),
            ("a.shop.svc.cluster.local.shop.svc.cluster.local.", A, "NXDomain 0 1"),
            ("mail.shop.svc.cluster.local.", A, "forward 512 about mail.example.net."),
            ("mail.shop.svc.cluster.local.", TXT, "forward 512 about mail.example.net."),
            ("mail.shop.svc.cluster.local.", RecordType::CNAME, "NoError 1 0"),
            ("api.example.com.", A, "NoError 1 0"),
            ("api.example.com.", MX, "forward 512"),
            ("example.org.", A, "forward 512"),
            (".", A, "forward 512"),
            ("many.shop.svc.cluster.local.", A, "NoError 0 0 cut"),
        ] {
            assert_eq!(check(&question(name, kind), true), expected, "{name} {kind}");
        }
        assert_eq!(check(&question("many.shop.svc.cluster.local.", A), false), "NoError 300 0");
    }

    #[test]
    fn what_a_name_stands_for() {
        let asked = question("mail.shop.svc.cluster.local.", RecordType::A);
        let target = Name::from_ascii("mail.example.net.").unwrap();
        let other = Message::from_vec(&about(&asked, &target).unwrap()).unwrap();
        assert_eq!((other.queries[0].name(), other.queries[0].query_type()), (&target, RecordType::A));
        let said = addresses(&other, &target, RecordType::A, &["192.0.2.7".parse().unwrap()]).to_vec().unwrap();
        let told = Message::from_vec(&under(&asked, &target, &said).unwrap()).unwrap();
        assert_eq!((told.metadata.id, &told.queries), (asked.metadata.id, &asked.queries));
        let answers: Vec<_> = told.answers.iter().map(ToString::to_string).collect();
        assert_eq!(answers, ["mail.shop.svc.cluster.local. 5 IN CNAME mail.example.net.", "mail.example.net. 5 IN A 192.0.2.7"]);
        // Nobody of that name: said so, with the name that it stands for.
        let none = negative(&other, &target, ResponseCode::NXDomain).to_vec().unwrap();
        let told = Message::from_vec(&under(&asked, &target, &none).unwrap()).unwrap();
        assert_eq!((told.metadata.response_code, told.answers.len(), told.authorities.len()), (ResponseCode::NXDomain, 1, 1));
        assert_eq!(under(&asked, &target, b"x"), None);
    }

    #[test]
    fn odd_messages() {
        let mut none = question("a.", RecordType::A);
        none.queries.clear();
        assert_eq!(check(&none, true), "FormErr 0 0");
        let mut chaos = question("version.bind.", RecordType::TXT);
        chaos.queries[0].set_query_class(DNSClass::CH);
        assert_eq!(check(&chaos, true), "Refused 0 0");
        let mut notify = question("a.", RecordType::A);
        notify.metadata.op_code = OpCode::Notify;
        assert_eq!(check(&notify, true), "NotImp 0 0");
        let mut reply = question("a.", RecordType::A);
        reply.metadata.message_type = MessageType::Response;
        assert_eq!(check(&reply, true), "drop");
        let mut large = question("example.org.", RecordType::A);
        let mut edns = Edns::new();
        edns.set_max_payload(4096);
        large.set_edns(edns);
        assert_eq!(check(&large, true), "forward 1232");
    }

    #[test]
    fn garbage() {
        let good = question("a.shop.svc.cluster.local.", RecordType::A).to_vec().unwrap();
        for length in 0..good.len() {
            match decide(&good[..length], &table(1), true) {
                Decision::Drop => assert!(length < 12),
                Decision::Respond(bytes) => {
                    let r = Message::from_vec(&bytes).unwrap();
                    assert_eq!((&bytes[..2], r.metadata.response_code), (&good[..2], ResponseCode::FormErr));
                }
                Decision::Forward { .. } => panic!("{length}"),
            }
        }
        for spot in 0..good.len() {
            let mut bad = good.clone();
            bad[spot] ^= 0xff;
            let _ = decide(&bad, &table(1), false);
        }
    }

    #[test]
    fn long_responses_are_cut_for_udp() {
        let q = question("many.shop.svc.cluster.local.", RecordType::A);
        let Decision::Respond(long) = decide(&q.to_vec().unwrap(), &table(300), false) else { panic!() };
        assert_eq!(fit(long.clone(), &q, 65535), long);
        let cut = Message::from_vec(&fit(long, &q, 512)).unwrap();
        assert!(cut.metadata.truncation && cut.answers.is_empty());
    }
}
