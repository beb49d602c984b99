//! The results, as a table or as JSON.

use std::fmt::Write;

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
    for Outcome { row, ours, floor } in results {
        let Measured { cpu, time, resident, anonymous, peak, bytes, messages, concerned, proxies } = ours;
        let beside = |ours: f64, floor: Option<f64>, scale: f64, digits: usize| match floor {
            Some(floor) if floor > 0.0 => format!("{:.digits$} | {:.digits$} | {:.1}", ours * scale, floor * scale, ours / floor),
            _ => format!("{:.digits$} | – | –", ours * scale),
        };
        let cpu = beside(*cpu, floor.map(|floor| floor.cpu.as_secs_f64()), 1.0, 3);
        let time = beside(*time, floor.map(|floor| floor.time.as_secs_f64()), 1e3, 1);
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
    out
}

/// What the floor takes for a GB: a slow one would be a cheap pass.
fn per_gb(results: &[Outcome]) -> Option<f64> {
    let most = results.iter().max_by(|a, b| a.ours.bytes.total_cmp(&b.ours.bytes))?;
    Some(most.floor?.cpu.as_secs_f64() / (most.ours.bytes / 1e9))
}

/// The same as data.
pub(super) fn json(results: &[Outcome], args: &ControlArgs) -> Value {
    let row = |Outcome { row, ours, floor }: &Outcome| {
        let Measured { cpu, time, resident, anonymous, peak, bytes, messages, concerned, proxies } = ours;
        let ratio = |ours: f64, floor: f64| (floor > 0.0).then(|| ours / floor);
        let floor = floor.map(|Cost { cpu: least, time: shortest }| {
            let (least, shortest) = (least.as_secs_f64(), shortest.as_secs_f64());
            json!({"cpu_s": least, "ms": shortest * 1e3, "cpu_ratio": ratio(*cpu, least), "ms_ratio": ratio(*time, shortest)})
        });
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
            "floor": floor,
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
