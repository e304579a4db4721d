//! `connect`: a kept connection, on demand.

use std::time::Duration;

use crate::cli::{Connect, Global};
use crate::client::calls;
use crate::client::connection::{Broker, NO_RECONNECT};
use crate::client::kept::{self, Place};
use crate::client::settings::Settings;
use crate::exit;
use crate::failure::{Failure, Result};
use crate::print::sink::print;
use crate::sys;

/// How long a holder may take to connect, and how often it is looked for meanwhile.
const TIMEOUT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);

/// `jobctl connect`: the exit status.
pub(crate) async fn connect(global: &Global, command: &Connect) -> Result<i32> {
    let settings = Settings::find(global)?;
    let credentials = settings.credentials()?;
    let fault = |why: &dyn std::fmt::Display| {
        Failure::unreachable(format!("cannot keep a connection to {}: {why}", settings.addr))
    };
    let Some(idle) = settings.persist else {
        return Err(Failure::usage("cannot keep a connection: the context does not say how long")
            .hint("jobctl config set-context NAME --persist 10m, or the variable JOBCTL_PERSIST"));
    };
    if command.hold {
        let held = kept::hold(&settings, &credentials, idle).await;
        return held.map(|()| exit::OK).map_err(|error| fault(&error));
    }
    let place = Place::find(&settings.addr, &credentials).map_err(|error| fault(&error))?;
    let pid = holder(&place).await;
    match (command, pid) {
        (Connect { stop: true, .. }, Some(pid)) => {
            sys::ask_to_end(pid);
            Ok(exit::OK)
        }
        (Connect { stop: true, .. }, None) => Ok(exit::OK),
        (Connect { status: true, .. }, None) => {
            print(&format!("no connection to {} is kept\n", settings.addr))?;
            Ok(exit::REFUSED)
        }
        (_, Some(pid)) => said(&settings, pid),
        (_, None) => {
            // Says what is wrong with the broker or the certificate, if something is.
            calls::identity(&Broker::connect_alone(global, NO_RECONNECT).await?).await?;
            kept::spawn(&settings).map_err(|error| fault(&error))?;
            said(&settings, started(&place).await.ok_or_else(|| fault(&"it does not begin"))?)
        }
    }
}

fn said(settings: &Settings, pid: i32) -> Result<i32> {
    print(&format!("process {pid} keeps a connection to {}\n", settings.addr))?;
    Ok(exit::OK)
}

async fn started(place: &Place) -> Option<i32> {
    let found = async {
        loop {
            if let Some(pid) = holder(place).await {
                return pid;
            }
            tokio::time::sleep(POLL).await; // it is no child that tells
        }
    };
    tokio::time::timeout(TIMEOUT, found).await.ok()
}

/// The pid of whoever holds the connection.
async fn holder(place: &Place) -> Option<i32> {
    kept::find(place).await?.peer_cred().ok()?.pid()
}
