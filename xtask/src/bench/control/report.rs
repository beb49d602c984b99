//! The results, as a table or as JSON.

use std::{fmt::Write, time::Duration};

use serde_json::{Value, json};

use super::{ControlArgs, Measured, Outcome, floor::Cost};

/// Markdown: ours, the floor's, ours as a multiple of it.
pub(super) fn table(results: &[Outcome], args: &ControlArgs) -> String {
    let mut out = format!(
        "{} services, {} proxies\n\n| | CPU s | floor | ratio | ms | floor | ratio | MB sent | messages | proxies | resident MiB | anonymous | peak | \
         CPU s of the proxies |\n| --- |{}\n",
        args.services,
        args.proxies,
        " --: |".repeat(13)
    );
    for Outcome { row, ours, floor, .. } in results {
        let Measured { cpu, time, resident, anonymous, peak, bytes, messages, concerned, proxies, .. } = ours;
        let (cpu, time) = beside_floor(*cpu, *time, *floor);
        let _ = writeln!(
            out,
            "| {} | {cpu} | {time} | {:.3} | {messages:.0} | {concerned:.0} | {resident:.0} | {anonymous:.0} | {peak:.0} | {proxies:.3} |",
            row.title(),
            bytes / 1e6
        );
    }
    if let Some(per_gb) = per_gb(results) {
        let _ = writeln!(out, "\nThe floor's own CPU: {per_gb:.2} s per GB in the cold sync, handshakes included.");
    }
    on_demand(&mut out, results, args);
    grown(&mut out, results);
    out
}

/// CPU time and time in a table, each with the floor's and as its multiple.
fn beside_floor(cpu: f64, time: f64, floor: Option<Cost>) -> (String, String) {
    let beside = |ours: f64, floor: Option<Duration>, scale: f64, digits: usize| match floor.map(|floor| floor.as_secs_f64()) {
        Some(floor) if floor > 0.0 => format!("{:.digits$} | {:.digits$} | {:.1}", ours * scale, floor * scale, ours / floor),
        _ => format!("{:.digits$} | – | –", ours * scale),
    };
    (beside(cpu, floor.map(|floor| floor.cpu), 1.0, 3), beside(time, floor.map(|floor| floor.time), 1e3, 1))
}

/// A ratio, where there is one.
fn times(number: f64, of: f64) -> String {
    if of > 0.0 { format!("{:.3}", number / of) } else { "–".to_owned() }
}

/// Proxies that fetch on demand beside those that hold everything.
fn on_demand(out: &mut String, results: &[Outcome], args: &ControlArgs) {
    let Some(destinations) = args.on_demand else { return };
    let _ = writeln!(
        out,
        "\nOn demand, {destinations} destinations a proxy; what is of the whole is of the same row above\n\n| | CPU s | floor | ratio | of the whole | ms \
         | floor | ratio | MB sent | of the whole | bytes a proxy | messages | proxies | resident MiB | peak |\n| --- |{}",
        " --: |".repeat(14)
    );
    for (row, whole, (one, floor)) in results.iter().filter_map(|o| Some((o.row, &o.ours, o.on_demand?))) {
        let (cpu, time) = beside_floor(one.cpu, one.time, floor);
        let _ = writeln!(
            out,
            "| {} | {cpu} | {} | {time} | {:.3} | {} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} |",
            row.title(),
            times(one.cpu, whole.cpu),
            one.bytes / 1e6,
            times(one.bytes, whole.bytes),
            one.bytes / f64::from(args.proxies),
            one.messages,
            one.concerned,
            one.resident,
            one.peak
        );
    }
    let Some((cold, _)) = results.iter().filter_map(|o| o.on_demand).find(|(one, _)| one.entries > 0.0) else { return };
    let _ = writeln!(
        out,
        "\nThe index has {:.0} entries of {:.0} bytes; {:.0} names were not brought along with what needs them.",
        cold.entries / f64::from(args.proxies),
        cold.entry_bytes / cold.entries,
        results.iter().filter_map(|o| o.on_demand).map(|(one, _)| one.missed).sum::<f64>()
    );
}

/// What doubling costs.
fn grown(out: &mut String, results: &[Outcome]) {
    if results.iter().all(|o| o.grown.is_none()) {
        return;
    }
    let _ = writeln!(
        out,
        "\nTwice as many, as multiples of the rows above\n\n| | services: CPU | MB | resident | ms | proxies: CPU | MB | resident | ms |\n| --- |{}",
        " --: |".repeat(8)
    );
    for (row, ours, grown) in results.iter().filter_map(|o| Some((o.row, &o.ours, o.grown?))) {
        let all = grown.map(|one| {
            let pairs = [(one.cpu, ours.cpu), (one.bytes, ours.bytes), (one.resident, ours.resident), (one.time, ours.time)];
            pairs.map(|(one, ours)| times(one, ours)).join(" | ")
        });
        let _ = writeln!(out, "| {} | {} |", row.title(), all.join(" | "));
    }
}

fn beside_one(one: &Measured, ours: &Measured) -> Value {
    let ratio = |one: f64, ours: f64| (ours > 0.0).then(|| one / ours);
    json!({
        "cpu_s": one.cpu, "ms": one.time * 1e3, "bytes": one.bytes, "resident_mib": one.resident,
        "cpu_ratio": ratio(one.cpu, ours.cpu), "ms_ratio": ratio(one.time, ours.time), "bytes_ratio": ratio(one.bytes, ours.bytes),
        "resident_ratio": ratio(one.resident, ours.resident),
    })
}

/// What the floor takes for a GB: a slow one would be a cheap pass.
fn per_gb(results: &[Outcome]) -> Option<f64> {
    let most = results.iter().max_by(|a, b| a.ours.bytes.total_cmp(&b.ours.bytes))?;
    Some(most.floor?.cpu.as_secs_f64() / (most.ours.bytes / 1e9))
}

/// The same as data.
pub(super) fn json(results: &[Outcome], args: &ControlArgs) -> Value {
    let row = |Outcome { row, ours, floor, on_demand, grown }: &Outcome| {
        let Measured { cpu, time, resident, anonymous, peak, bytes, messages, concerned, proxies, .. } = ours;
        let ratio = |ours: f64, floor: f64| (floor > 0.0).then(|| ours / floor);
        let beside_floor = |ours: &Measured, floor: &Option<Cost>| {
            floor.map(|Cost { cpu: least, time: shortest }| {
                let (least, shortest) = (least.as_secs_f64(), shortest.as_secs_f64());
                json!({
                    "cpu_s": least, "ms": shortest * 1e3, "cpu_ratio": ratio(ours.cpu, least), "ms_ratio": ratio(ours.time, shortest),
                })
            })
        };
        json!({
            "row": row.title(),
            "cpu_s": cpu,
            "ms": time * 1e3,
            "resident_mib": resident,
            "anonymous_mib": anonymous,
            "peak_mib": peak,
            "bytes": bytes,
            "messages": messages,
            "proxies_concerned": concerned,
            "proxies_cpu_s": proxies,
            "floor": beside_floor(ours, floor),
            "on_demand": on_demand.map(|(one, floor)| json!({
                "floor": beside_floor(&one, &floor),
                "cpu_s": one.cpu, "ms": one.time * 1e3, "bytes": one.bytes, "messages": one.messages, "proxies_concerned": one.concerned,
                "resident_mib": one.resident, "peak_mib": one.peak, "index_entries": one.entries, "index_bytes": one.entry_bytes,
                "missed": one.missed, "cpu_ratio": ratio(one.cpu, *cpu), "bytes_ratio": ratio(one.bytes, *bytes),
            })),
            "twice_the_services": grown.map(|[one, _]| beside_one(&one, ours)),
            "twice_the_proxies": grown.map(|[_, one]| beside_one(&one, ours)),
        })
    };
    json!({
        "services": args.services,
        "proxies": args.proxies,
        "rounds": args.rounds,
        "release": !cfg!(debug_assertions),
        "floor_cpu_s_per_gb": per_gb(results),
        "rows": results.iter().map(row).collect::<Vec<_>>(),
    })
}
