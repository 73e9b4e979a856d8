//! The test-suite of CSI's authors (kubernetes-csi/csi-test) against the real daemon. Run by `hack/csi-sanity`, which builds it.

use std::fs;
use std::path::Path;
use std::process::Command;

use imagevol_test_support::csi_controller;
use imagevol_test_support::kubelet::Driver;

use crate::lab::{Lab, image};

/// Where the suite is.
const PROGRAM: &str = "CSI_SANITY";
/// The pod whose volume the suite has published.
const POD: &str = "5a417450-0000-4000-8000-000000000000";

struct Suite {
    lab: Lab,
    program: String,
}

impl Suite {
    /// Specs of the Identity and Node services; what the driver says of controllers decides which are skipped.
    fn run(&self, flags: &[String]) -> String {
        let volume = self.lab.daemon.root_dir().join("pods").join(POD).join("volumes/kubernetes.io~csi/sanity");
        fs::create_dir_all(volume.parent().unwrap()).unwrap();
        let mut suite = Command::new(&self.program);
        suite.arg("-ginkgo.focus").arg("Identity Service|Node Service").arg("-ginkgo.no-color").args(flags);
        suite.arg("-csi.mountdir").arg(volume).arg("-csi.stagingdir").arg(self.lab.daemon.dir().join("staging"));
        suite.arg("-csi.testvolumeparameters").arg(self.lab.daemon.dir().join("parameters.yaml"));
        let output = suite.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text}\nlog:\n{}", self.lab.daemon.log());
        text
    }
}

fn endpoint(flag: &str, socket: &Path) -> [String; 2] {
    [flag.to_owned(), format!("unix://{}", socket.display())]
}

#[test]
#[ignore = "run by hack/csi-sanity, which builds the suite"]
fn the_suite_of_csi_passes() {
    let program = std::env::var(PROGRAM).unwrap_or_else(|_| panic!("{PROGRAM} has to name the program csi-sanity"));
    let Some(lab) = Lab::started("csi_sanity", "csi: {}") else { return };
    let registry = lab.registry();
    let reference = registry.push("sanity", "1", &image("name", "content"));
    // As a kubelet tells of the pod; without `ephemeral`, which only a kubelet says.
    let parameters = format!(
        "reference: {reference}\ncsi.storage.k8s.io/pod.name: sanity\ncsi.storage.k8s.io/pod.namespace: default\n\
         csi.storage.k8s.io/pod.uid: {POD}\n"
    );
    fs::write(lab.daemon.dir().join("parameters.yaml"), parameters).unwrap();
    let socket = lab.daemon.root_dir().join("plugins/csi.imagevol.dev/csi.sock");
    let with_controller = lab.daemon.dir().join("controller.sock");
    let driver = Driver::Socket(socket.clone());
    let at = with_controller.clone();
    drop(lab.background(async move { csi_controller::serve(&driver, &at).await }));
    lab.until("the controller", || with_controller.exists().then_some(()));
    let suite = Suite { lab, program };
    // The driver as it is: volumes are made elsewhere.
    let flags = [endpoint("-csi.endpoint", &socket), endpoint("-csi.controllerendpoint", &with_controller)].concat();
    let alone = suite.run(&flags);
    assert!(alone.contains("15 Passed | 0 Failed"), "a spec is skipped that was not: {alone}");
    // The driver beside a controller: nothing about publishing is skipped.
    let together = suite.run(&endpoint("-csi.endpoint", &with_controller));
    assert!(together.contains("17 Passed | 0 Failed"), "a spec is skipped that was not: {together}");
    let left = suite.lab.daemon.root_dir().join("pods").join(POD).join("volumes/kubernetes.io~csi/sanity");
    assert!(!left.exists(), "the suite removes its directory, which is empty");
}
