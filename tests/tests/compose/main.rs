//! The compose demo, tried without containers: its commands, environment, health checks, mounted
//! files and the order of its services, as processes.

#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests; clippy knows only the test functions themselves"
)]

mod file;
mod run;

use std::net::SocketAddr;

use e2e::http_client::Http;
use e2e::paths;
use file::{Condition, services, stages};
use run::Compose;

#[tokio::test]
async fn the_compose_file_ends_with_a_purchase_and_does_so_again_when_started_again() {
    let mut compose = Compose::new("compose").unwrap();
    for purchases in 1..=2 {
        compose.up().unwrap();
        compose.wait_for("buyer", Condition::Completed).unwrap();
        println!("{}", compose.output("buyer"));

        // Each run of the buyer is one payment and at least one served request.
        let counts = SocketAddr::from(([127, 0, 0, 1], compose.port("weather", 8081).unwrap()));
        let counts = Http::new(counts)
            .get("/_counts")
            .send()
            .await
            .unwrap()
            .json();
        assert!(
            counts["paths"]["/v1/forecast"].as_u64() >= Some(1),
            "{purchases}: {counts}"
        );

        // What the reader of the file is told to try.
        let envoy = SocketAddr::from(([127, 0, 0, 1], compose.port("envoy", 10000).unwrap()));
        let refused = Http::new(envoy).get("/v1/forecast").send().await.unwrap();
        assert_eq!(refused.status, 402);
        let challenge = refused.challenges().pop().unwrap();
        assert!(
            challenge.invoice.starts_with("lnbcrt100n"),
            "{}",
            challenge.invoice
        );
        assert_eq!(challenge.check().unwrap(), 10_000);
        compose.down().unwrap();
    }
}

#[test]
fn every_image_of_the_compose_file_is_a_target_of_the_dockerfile() {
    let stages = stages(&paths::root()).unwrap();
    for service in services(&paths::root()).unwrap() {
        let stage = &stages[&service.target];
        assert_eq!(
            stage.user.as_deref(),
            Some("65532:65532"),
            "{}",
            service.name
        );
    }
}

#[test]
fn the_plugin_image_has_one_layer_with_one_file() {
    let stages = stages(&paths::root()).unwrap();
    let plugin = &stages["plugin"];
    assert_eq!((plugin.base.as_str(), plugin.runs), ("scratch", 0));
    let copies = [(
        "build".to_owned(),
        "/out/plugin.wasm".to_owned(),
        "./".to_owned(),
    )];
    assert_eq!(plugin.copies, copies);
}

#[test]
fn stages_copy_from_stages_that_are_there_and_from_files_of_the_project() {
    let root = paths::root();
    let stages = stages(&root).unwrap();
    for (name, stage) in &stages {
        for (from, source, _) in &stage.copies {
            let there = if from.is_empty() {
                root.join(source).exists()
            } else {
                stages.contains_key(from)
            };
            assert!(there, "{name} copies {source} from {from:?}");
        }
    }
}
