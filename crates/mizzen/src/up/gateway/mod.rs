//! The mesh's gateways: proxies without a program, whose ports are opened on the host's loopback. One runs by default; others are Deployments whose pods are
//! made by the template `gateway`.

mod doors;
mod plan;

use std::{collections::BTreeMap, net::TcpListener, sync::Arc};

use anyhow::Result;
use mizzen_api::core::PodSpec;
use tokio::sync::watch;

pub(crate) use doors::{Open, keep};
#[cfg(test)]
pub(crate) use plan::labels;
pub(crate) use plan::{Plan, follows, wanted};

use super::{
    desired::{self, Objects, Serving, Wanted},
    entrance::Entrance,
    mesh::{Mesh, is_set},
    pod::{self, Place},
    proxy::{self, Role},
    say,
};

/// Runs a gateway's pod until `stop`.
pub(crate) async fn live(mesh: Arc<Mesh>, pod: Arc<Wanted>, mut stop: watch::Receiver<bool>) {
    let entered = match mesh.payload.data_plane.foreign() {
        None => Entrance::pass().map(|(entrance, socket)| (entrance, Some(socket))),
        Some(_) => Ok((Entrance::carry(), None)),
    };
    let (mut entrance, inherit) = match entered {
        Ok(entered) => entered,
        Err(error) => return pod::failed(&mesh, &pod, &error, &mut stop).await,
    };
    if pod.spec.termination_grace_period != PodSpec::default().termination_grace_period {
        let seconds = proxy::GRACE.as_secs();
        say::warning(&format!("{}/{}: terminationGracePeriodSeconds: a gateway has {seconds} s to end here", pod.namespace, pod.name));
    }
    let Some(place) = pod::place(&mesh, &pod, Role::Router, inherit, &mut stop).await else { return };
    if let Err(error) = serve(&mesh, &place, &mut entrance, &mut stop).await {
        say::error(&format!("{}/{}: {error:#}", pod.namespace, pod.name));
    }
    place.leave().await;
    entrance.close();
    place.remove().await;
}

/// Has its ports lead to it, and tells whether it is ready, until `stop`.
async fn serve(mesh: &Mesh, place: &Place, entrance: &mut Entrance, stop: &mut watch::Receiver<bool>) -> Result<()> {
    let pod = &place.pod;
    let (mut doors, mut objects) = (mesh.doors.subscribe(), mesh.objects.subscribe());
    let mut ready = place.proxy.ready.clone();
    let mut is_over = false;
    loop {
        let sockets = {
            let (open, objects) = (doors.borrow_and_update(), objects.borrow_and_update());
            // One whose gateway has another in its place serves what that one has, too, until it is stopped.
            sockets_of(mesh.serving, pod, &open, &objects).unwrap_or_else(|| entrance.led(open.sockets()))
        };
        entrance.lead(&sockets, place.address, &ready).await?;
        if is_over {
            return Ok(());
        }
        tokio::select! {
            changed = doors.changed() => changed?,
            changed = objects.changed() => changed?,
            changed = ready.changed() => {
                changed?;
                let now = *ready.borrow_and_update();
                place.tell(now);
                entrance.forget();
                if now {
                    say::step(&format!("{}/{} is ready", pod.namespace, pod.name));
                }
            }
            // What is another's by now it must not keep while it ends.
            () = is_set(stop) => is_over = true,
        }
    }
}

/// The open ports that Gateways have for this very pod: a new version of it may be selected by others, and who has no listener for a port would take
/// connections from it for nothing.
fn sockets_of(serving: Serving, pod: &Wanted, open: &Open, objects: &Objects) -> Option<BTreeMap<u16, Arc<TcpListener>>> {
    let doors = open.of(&plan::id(&pod.namespace, &pod.workload))?;
    let ports = desired::gateway_ports(objects, &pod.namespace, &pod.labels, serving);
    Some(doors.iter().filter(|(port, _)| ports.contains_key(port)).map(|(port, door)| (*port, door.socket.clone())).collect())
}
