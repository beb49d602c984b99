//! What codes mean, for people: what is found, why it hurts, how it is mended.

use crate::Code;

/// What a code means, each in a sentence or two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Explanation {
    /// What is found.
    pub what: &'static str,
    /// Why it hurts.
    pub why: &'static str,
    /// How it is mended.
    pub mend: &'static str,
}

/// What a code means.
pub fn explain(code: &Code) -> Explanation {
    let found = EXPLANATIONS.binary_search_by_key(&code.id, |(id, _)| id).ok().and_then(|at| EXPLANATIONS.get(at));
    found.map(|(_, explanation)| *explanation).unwrap_or_default()
}

macro_rules! explanations {
    ($($id:ident $what:literal $why:literal $mend:literal;)*) => {
        /// In the order of the codes.
        const EXPLANATIONS: &[(&str, Explanation)] =
            &[$((stringify!($id), Explanation { what: $what, why: $why, mend: $mend })),*];
    };
}

explanations! {
    IST0001
        "Something went wrong in the analysis itself."
        "What it would have said is missing."
        "Report it, with the objects that were analyzed.";
    IST0002
        "A field or a kind is used that Istio has given up or ignores."
        "It may do nothing today, and may be refused by a later version."
        "Use the field or the kind that is named in its place.";
    IST0101
        "An object names another one that does not exist: a host, a gateway, a subset, a secret, a namespace."
        "Requests that need it fail, or the object does not take part at all."
        "Correct the name, or make the object. Short hosts are looked for in the object's own namespace.";
    IST0102
        "A namespace says nothing about injection."
        "Its pods get no proxy, and take no part in the mesh."
        "Label it istio-injection=enabled, or istio-injection=disabled to say that this is meant.";
    IST0103
        "A pod has no proxy, though its namespace asks for one."
        "It was made before the label, or injection failed. It speaks plaintext and no policy guards it."
        "Restart the workload. If the proxy is still missing, look at the events of its controller.";
    IST0106
        "An object is not valid: a field is unknown, of a wrong type, missing, or contradicts another."
        "The mesh does not take it; what was in force before stays, or nothing is."
        "Correct the field that is named.";
    IST0107
        "An annotation stands on a kind of object where nobody reads it."
        "It has no effect. Settings of proxies on a Deployment instead of its pod template are the usual case."
        "Move it to where it belongs, such as spec.template.metadata.annotations.";
    IST0108
        "An annotation is in Istio's domain, and Istio does not have it."
        "It has no effect: most often it is misspelt."
        "Correct its name, or remove it.";
    IST0109
        "Several VirtualServices of the mesh are about one host."
        "Only one can hold for a client, and which one is not defined."
        "Merge them into one, or keep them apart by exportTo.";
    IST0110
        "Several Sidecars select one workload."
        "Only one can hold, and which one is not defined."
        "Make their selectors exclude each other, or merge them.";
    IST0111
        "A namespace has several Sidecars without a selector."
        "Only one can be its default, and which one is not defined."
        "Keep one, and give the others selectors.";
    IST0112
        "A route leads to a service with several ports, and names none."
        "The mesh cannot know which is meant."
        "Add destination.port.number.";
    IST0116
        "Services in front of one deployment have one port with different protocols."
        "A proxy can speak only one protocol on a port, so some calls fail."
        "Give the port the same protocol everywhere, or use different ports.";
    IST0118
        "A port's name tells no protocol."
        "The protocol is guessed from the first bytes. Where the guess fails, routes and rules about HTTP do not hold."
        "Name it PROTOCOL or PROTOCOL-SUFFIX, such as http-api, or set appProtocol.";
    IST0123
        "A namespace has more than one label about injection."
        "Which of them holds is not defined."
        "Keep one of istio-injection, istio.io/rev and istio.io/dataplane-mode.";
    IST0125
        "An annotation holds a value that it cannot have."
        "Injection refuses the pod, or the setting is ignored."
        "Correct the value as the message says.";
    IST0126
        "A network's endpoints come from a registry that nobody knows."
        "The network has no endpoints, and calls between clusters take no gateway."
        "Use the name of a cluster that has a secret with label istio/multiCluster=true, or Kubernetes.";
    IST0127
        "A selector fits no workload."
        "The object has no effect, and whoever relies on it is unguarded."
        "Correct the labels, or the namespace.";
    IST0128
        "A DestinationRule starts TLS and does not say which authorities verify the server."
        "The roots of the proxy's system do: if it has none the calls fail, and if it has, each of them can vouch for the server."
        "Set tls.caCertificates, to `system` if that is meant, or a credentialName that has a CA.";
    IST0129
        "Settings of one port of a DestinationRule start TLS and do not say which authorities verify the server."
        "The roots of the proxy's system do: if it has none the calls fail, and if it has, each of them can vouch for the server."
        "Set caCertificates in the tls of that port.";
    IST0130
        "A rule of a VirtualService is never reached."
        "An earlier one takes all its requests, so it has no effect."
        "Put narrower rules before wider ones, or remove it.";
    IST0131
        "A match of a VirtualService is taken by an earlier rule."
        "It has no effect."
        "Remove it, or move it before the other.";
    IST0132
        "A VirtualService has hosts that its gateway does not."
        "The gateway answers 404 for them."
        "Add the hosts to a server of the gateway, or remove them from the route.";
    IST0133
        "An object is valid, and something in it is doubtful."
        "It may not do what it seems to."
        "Read the message, and say what is meant.";
    IST0134
        "A ServiceEntry has a TCP port and no addresses."
        "It takes the traffic of that port whatever its destination is."
        "Set addresses, or let them be allocated.";
    IST0135
        "An annotation is deprecated."
        "Later versions may ignore it."
        "Use what has taken its place, if the message names it.";
    IST0136
        "An annotation belongs to a feature in its alpha phase."
        "It may change or go away without notice."
        "Nothing need be done; do not rely on it in production.";
    IST0137
        "Services in front of one deployment reach one of its ports by different ports."
        "A proxy can keep settings for only one of them, so some may not hold."
        "Use one port number for each target port.";
    IST0138
        "Several gateways of one workload use the same certificate."
        "A browser that has a connection for one host uses it for the others too, and gets 404."
        "Put the hosts into one gateway, or use a certificate for each.";
    IST0139
        "A webhook of injection overlaps with another, or leads to a service that does not exist."
        "Pods are injected twice, or cannot be made at all."
        "Remove the configuration that is left over, or make the selectors exclude each other.";
    IST0140
        "A route of an Ingress's gateway names subsets."
        "Rules of the mesh do not apply there, so the subset is not chosen."
        "Route at a Gateway instead of the Ingress.";
    IST0141
        "Somebody who wants to install may not make what is needed."
        "The installation would fail half-way."
        "Ask for the right that is named.";
    IST0142
        "Kubernetes is older than what is needed."
        "Some kinds and fields do not exist there."
        "Upgrade Kubernetes first.";
    IST0143
        "A program listens on localhost, on a port of its service."
        "Nobody but itself can reach it there."
        "Let it listen on all addresses.";
    IST0144
        "A program runs as user 1337, which is the proxy's."
        "Its traffic is not captured: it goes past the mesh's encryption, its routes and its policies."
        "Run it as another user.";
    IST0145
        "Gateways of one workload have the same port and host."
        "Only one of them holds, and which one is not defined."
        "Give each its own hosts or ports, or merge them.";
    IST0146
        "A deployment leaves the image of its proxy to injection, and no webhook takes its pods."
        "The pods will ask for an image that is called auto, and never start."
        "Label the namespace or the pods for injection.";
    IST0147
        "A pod that exists has a proxy whose image is auto."
        "Injection happens when a pod is made: this one will not start."
        "Label the namespace or the pod for injection, and make it again.";
    IST0148
        "A namespace gets proxies without asking, since the installation enables that by default."
        "Nothing need be wrong; it may be a surprise."
        "Label the namespace istio-injection=disabled if its pods should have none.";
    IST0149
        "A route depends on claims of a token that nobody checks."
        "Such claims are never there, so the route is never taken."
        "Add a RequestAuthentication for the gateway's workload.";
    IST0150
        "An ExternalName service has a port whose name tells no protocol, or tcp."
        "A proxy opens that port for all addresses, and takes the traffic of others."
        "Name the port after its protocol, such as http or tls.";
    IST0151
        "An EnvoyFilter without a priority changes what others have made."
        "What it needs may not be there yet when it is applied, and then it is not."
        "Set priority, or use INSERT_FIRST or ADD.";
    IST0152
        "An EnvoyFilter replaces what cannot be replaced."
        "The patch is not applied."
        "Use REPLACE with HTTP_FILTER or NETWORK_FILTER only.";
    IST0153
        "An EnvoyFilter adds where nothing can be added."
        "The patch is not applied."
        "Use MERGE, or another place.";
    IST0154
        "An EnvoyFilter removes what cannot be removed."
        "The patch is not applied."
        "Use another place, or change what makes it.";
    IST0155
        "An EnvoyFilter for one proxy version changes what others have made, without a priority."
        "During an upgrade the proxies of the other version lose it, or the order changes."
        "Set priority, or use INSERT_FIRST or ADD.";
    IST0156
        "The Gateway API's definitions are too old."
        "Gateways and routes of the version that is needed cannot be read."
        "Install a newer release of the Gateway API.";
    IST0157
        "A Telemetry has an empty provider."
        "It is ignored, and nothing is reported by it."
        "Name a provider, or leave providers out.";
    IST0158
        "Pods have a proxy of another image than the one that is injected now."
        "They were made before an upgrade and miss what is new, fixes too."
        "Restart the workloads.";
    IST0159
        "Several Telemetries select one workload."
        "Only one can hold, and which one is not defined."
        "Make their selectors exclude each other, or merge them.";
    IST0160
        "A namespace has several Telemetries without a selector."
        "Only one can be its default, and which one is not defined."
        "Keep one, and give the others selectors.";
    IST0161
        "The secret that a gateway names holds no valid certificate and key."
        "The gateway cannot open that port, or clients refuse it."
        "Put a PEM certificate and its key into the secret, under the keys that are expected.";
    IST0162
        "A gateway listens on a port that no service of its workload leads to."
        "Nobody can reach it there through the service."
        "Add the port to the service, or use one that it has.";
    IST0163
        "The webhook of a control plane elsewhere has an address that cannot be reached."
        "Injection or validation fails."
        "Give it a URL with a host name that resolves to the gateway of the control plane.";
    IST0164
        "The webhook of a control plane elsewhere has an IP address."
        "Certificates are for names, and the address may change."
        "Give the gateway a host name.";
    IST0165
        "A VirtualService names a gateway that was made from one of the Gateway API."
        "Such gateways are internal, and their names and form may change."
        "Use an HTTPRoute with the Gateway as its parent.";
    IST0166
        "A policy selects the workload of a Gateway of the Gateway API by labels."
        "Selectors do not hold there, so the policy has no effect."
        "Use targetRefs.";
    IST0167
        "A policy or a Sidecar has no effect."
        "What it should guard or change stays as it is."
        "Read why in the message: most often the workload is in ambient mode.";
    IST0168
        "A default changes with an upgrade, and whether that matters cannot be seen."
        "Something may behave differently afterwards."
        "Read what has changed, or keep the old default by compatibilityVersion.";
    IST0169
        "A default changes with an upgrade, and something here relies on the old one."
        "It will behave differently afterwards."
        "Change the object, or keep the old default by compatibilityVersion.";
    IST0170
        "A service is different in different clusters of a mesh."
        "What clients get depends on where they are."
        "Make it the same everywhere.";
    IST0171
        "A control plane has written into the object that something about it does not hold."
        "It is not in force, or only in part."
        "Read reason and message of the condition.";
    IST0172
        "The Gateway API's definitions will be too old for the next version."
        "After the upgrade gateways and routes could not be read."
        "Install a newer release of the Gateway API before the upgrade.";
    IST0173
        "A subset selects no pods."
        "Requests that are routed to it fail with 503."
        "Correct its labels, or remove it with the routes to it.";
    IST0174
        "A DestinationRule is for a host that does not exist."
        "It has no effect."
        "Correct the host: a short name is looked for in the rule's own namespace.";
    IST0175
        "The control plane fetches keys for tokens from wherever a RequestAuthentication says."
        "Who may write one can make it call addresses inside the network."
        "Set BLOCKED_CIDRS_IN_JWKS_URIS at the control plane.";
    IST0176
        "A definition of the Gateway API is of a release that is too old."
        "Objects of that kind are left alone."
        "Install the release that is named, or a newer one.";
    IST0177
        "Several ServiceEntries give one port of a host different protocols."
        "Only one can hold, and which one is not defined."
        "Make them agree.";
    MZ0001
        "A kind of Istio or of the Gateway API that this mesh does not act on."
        "The object has no effect here."
        "Do without it, or run the part that needs it under Istio's own control plane.";
    MZ0002
        "A field that this mesh knows and does not act on."
        "Where ignoring it could change who may talk or where traffic goes, the object is refused. Elsewhere the field has no effect."
        "Remove the field, or use what the message names.";
    MZ0003
        "Two documents describe one object."
        "Only one can hold; the first is taken."
        "Remove one of them.";
    MZ0004
        "Something that is written has no effect."
        "The mesh behaves as if it were not there."
        "Remove it, or correct what it refers to.";
    MZ0005
        "A proxy has refused a configuration."
        "It keeps the last one that it took."
        "Read its reason, and correct the object that is named.";
    MZ0006
        "A document of a kind that is not the mesh's."
        "Nothing is wrong: it is left to whoever knows it."
        "Nothing need be done.";
    MZ0007
        "An object that Kubernetes would run, and a mesh on one host does not."
        "It has no effect with mizzen up."
        "Nothing need be done on Kubernetes.";
    MZ0101
        "A gateway takes requests for any host, or routes of any namespace."
        "Another team's route can put itself in front of yours under your certificate."
        "Name the hosts, with the namespace whose routes may use them: shop/shop.example.com.";
    MZ0102
        "TLS is started, and what the server shows is not verified."
        "Anybody on the way can read and change everything."
        "Remove insecureSkipVerify, and set what to verify with.";
    MZ0103
        "A rule of a policy can match no request."
        "What it should allow is refused, or what it should deny passes."
        "Correct the condition that cannot hold.";
    MZ0104
        "A rule of a policy has no effect, since another decides first."
        "It seems to narrow or to widen something, and does not."
        "Remove it, or the wider one.";
    MZ0105
        "One workload or port takes plaintext where the rest takes mutual TLS only."
        "It can be called by anybody in the network, without an identity."
        "Set STRICT there too, once all its callers have a proxy.";
    MZ0106
        "A policy or a route is about HTTP, and the protocol of the port is guessed."
        "Who sends something else first is taken for TCP, and rules about paths and methods are not asked."
        "Name the port http-…, or set appProtocol.";
    MZ0107
        "A rule allows everybody everything."
        "The policy guards nothing: other rules of it are never needed."
        "Say who may do what.";
    MZ0108
        "A namespace has policies for some workloads, and none for the rest."
        "Whatever is new there can be called by anybody."
        "Add an AuthorizationPolicy without a selector and without rules.";
    MZ0109
        "A policy names a caller of a trust domain that this mesh does not know."
        "No certificate of it is accepted, so the rule never matches."
        "Correct the trust domain, or add it to trustDomainAliases.";
    MZ0110
        "Tokens are checked where they come, and need not come."
        "A request without a token passes."
        "Add an AuthorizationPolicy that asks for requestPrincipals.";
    MZ0111
        "Proxies are to prove who they are by the service account's first-party token."
        "It holds for any audience and never ends: whoever gets one can be that workload anywhere."
        "Use third-party-jwt, which is the default.";
    MZ0112
        "Clients are told to speak plaintext to servers that take mutual TLS only."
        "All their calls fail."
        "Remove the tls mode from the DestinationRule, or set ISTIO_MUTUAL.";
    MZ0113
        "TLS is started, and whom the server's certificate names is not verified."
        "Whoever has a certificate of the same authorities, which may be those of the whole web, can answer in the server's place."
        "Set subjectAltNames, or leave sni out: then the host of each request is asked for and verified.";
    MZ0114
        "A Deployment's proxies are to hand on their clients' addresses (interception mode TPROXY), for which they need a capability that the namespace forbids."
        "Pod Security admits none of its pods."
        "Use REDIRECT, or a namespace of the level privileged.";
    MZ0120
        "How the workloads of a namespace are to be called: with mutual TLS, without, or both."
        "Nothing is wrong: it is an overview."
        "Nothing need be done.";
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CODES;

    #[test]
    fn each_code_is_explained() {
        assert!(EXPLANATIONS.is_sorted_by_key(|(id, _)| id));
        for code in CODES {
            let Explanation { what, why, mend } = explain(code);
            for sentence in [what, why, mend] {
                assert!(sentence.ends_with('.') && !sentence.contains('\n'), "{}: {sentence:?}", code.id);
            }
        }
        let ids: Vec<&str> = EXPLANATIONS.iter().map(|(id, _)| *id).collect();
        assert_eq!(ids, CODES.iter().map(|code| code.id).collect::<Vec<_>>());
    }
}
