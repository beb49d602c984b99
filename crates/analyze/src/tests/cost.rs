//! What a change costs: as many looks as there are objects that it concerns, however many others there are.

use std::sync::Arc;

use crate::{Analysis, Options, items};

fn shop(size: usize) -> String {
    let one = |number: usize| {
        let labels = format!("app.kubernetes.io/instance: shop, app.kubernetes.io/name: a{number}");
        format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: a{number}, namespace: shop}}, spec: {{selector: {{{labels}}}, ports: [{{name: http, port: 80}}]}}}}\n---\n\
             {{apiVersion: apps/v1, kind: Deployment, metadata: {{name: a{number}, namespace: shop}}, spec: {{selector: {{matchLabels: {{{labels}}}}}, \
             template: {{metadata: {{labels: {{{labels}}}}}, spec: {{containers: [{{name: a, image: a}}]}}}}}}}}\n---\n"
        )
    };
    let namespace = "{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {istio-injection: enabled}}}\n---\n";
    namespace.to_owned() + &(0..size).map(one).collect::<String>()
}

#[test]
fn a_service_concerns_its_own_deployments() {
    let changed = "{apiVersion: v1, kind: Service, metadata: {name: a7, namespace: shop}, \
                   spec: {selector: {app.kubernetes.io/name: a7}, ports: [{name: http, port: 80}, {name: udp, port: 80, protocol: UDP}]}}";
    let work = |size: usize| {
        let mut analysis = Analysis::new(Options { follows: true, ..Options::default() });
        let mut put = |text: &str| {
            items(text, &Arc::from("shop.yaml"), "default", &mut |item| analysis.put(&item));
            analysis.update();
            let said = analysis.messages().iter().any(|message| message.code.id == "IST0116" && &*message.id.name == "a7");
            (analysis.work(), said)
        };
        let ((before, was_said), (after, is_said)) = (put(&shop(size)), put(changed));
        assert!(!was_said && is_said);
        after - before
    };
    assert_eq!(work(20), work(400));
}
