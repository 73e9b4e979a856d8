//! What a container sees of an image.

use imagevol_test_e2e::manifests::{csi, csi_with, pod, pod_with};
use imagevol_test_e2e::{Cluster, LoopbackRegistry, images};
use imagevol_test_support::image::{ImageBuilder, Index, LayerBuilder};
use serde_json::json;

#[test]
fn nothing_can_be_written() {
    let Some(cluster) = Cluster::find("nothing_can_be_written") else { return };
    let namespace = cluster.namespace("readonly");
    let reference = images::push(cluster.registry(), "e2e/readonly", "v1", &images::site("readonly"));
    namespace.run(&pod(&cluster, "web", &[csi("site", &reference)]));
    for command in [
        &["touch", "/site/new"][..],
        &["sh", "-c", "echo x >> /site/index.html"],
        &["rm", "/site/index.html"],
        &["chmod", "777", "/site/index.html"],
        &["mkdir", "/site/srv/new"],
    ] {
        let tried = namespace.exec("web", command);
        assert!(!tried.ok && tried.stderr.contains("Read-only file system"), "{command:?}: {tried:?}");
    }
    assert_eq!(namespace.read("web", "/site/index.html"), "readonly");
    let mounts = namespace.read("web", "/proc/mounts");
    let mount = mounts.lines().find(|line| line.contains(" /site ")).unwrap_or_else(|| panic!("{mounts}"));
    let words: Vec<_> = mount.split([' ', ',']).collect();
    assert!(["erofs", "ro"].iter().all(|word| words.contains(word)), "{mount}");
}

/// What the node has mounted for the pod; the container's own view of it is the runtime's, which takes other flags than `ro` away.
#[test]
fn devices_and_set_user_id_do_not_count_on_the_node() {
    let Some(cluster) = Cluster::find_local("devices_and_set_user_id_do_not_count_on_the_node") else { return };
    let namespace = cluster.namespace("flags");
    let reference = images::push(cluster.registry(), "e2e/flags", "v1", &images::site("flags"));
    let uid = namespace.run(&pod(&cluster, "web", &[csi("site", &reference)]));
    let at = format!("/pods/{uid}/volumes/kubernetes.io~csi/site/mount ");
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mount = table.lines().find(|line| line.contains(&at)).unwrap_or_else(|| panic!("no {at} in {table}"));
    // proc_pid_mountinfo(5): the sixth field.
    let flags: Vec<_> = mount.split(' ').nth(5).unwrap().split(',').collect();
    assert!(["ro", "nosuid", "nodev"].iter().all(|flag| flags.contains(flag)), "{mount}");
}

/// An index of two platforms, of which a pod chooses one that the node is not.
#[test]
fn another_platform_is_mounted_where_it_is_asked_for() {
    let Some(cluster) = Cluster::find_local("another_platform_is_mounted_where_it_is_asked_for") else { return };
    let namespace = cluster.namespace("platform");
    let registry = LoopbackRegistry::start();
    let of = |architecture: &str, variant| {
        let layer = LayerBuilder::new().file("index.html", format!("{architecture} in {}", namespace.name()));
        ImageBuilder::new().layer(layer.gzip()).platform("linux", architecture, variant).build()
    };
    let index = Index::new([of("amd64", None), of("arm64", Some("v8"))]);
    let reference = registry.push_index("e2e/platform", "v1", &index);
    let volumes = ["amd64", "arm64"].map(|architecture| {
        csi_with(architecture, &json!({ "reference": reference, "platform": format!("linux/{architecture}") }))
    });
    namespace.run(&pod(&cluster, "web", &volumes));
    for architecture in ["amd64", "arm64"] {
        let read = namespace.read("web", &format!("/{architecture}/index.html"));
        assert_eq!(read, format!("{architecture} in {}", namespace.name()));
    }
}

/// The container runtime's own image volumes pull artifacts and show an empty directory.
#[test]
fn an_artifact_has_its_files_under_their_names() {
    let Some(cluster) = Cluster::find("an_artifact_has_its_files_under_their_names") else { return };
    let namespace = cluster.namespace("artifact");
    let reference = images::push(cluster.registry(), "e2e/artifact", "v1", &images::model("weights"));
    namespace.run(&pod(&cluster, "serve", &[csi("model", &reference)]));
    let found = namespace.must(&["exec", "serve", "--", "sh", "-c", "cd /model && find . -type f | sort"]);
    assert_eq!(found, "./config/model.json\n./weights.bin\n");
    assert_eq!(namespace.read("serve", "/model/weights.bin"), "weights");
}

/// A single file too, which the container runtime's own image volumes refuse.
#[test]
fn sub_paths_are_a_directory_or_a_file() {
    let Some(cluster) = Cluster::find("sub_paths_are_a_directory_or_a_file") else { return };
    let namespace = cluster.namespace("subpath");
    let reference = images::push(cluster.registry(), "e2e/subpath", "v1", &images::site("subpath"));
    let mounts = [
        json!({ "name": "site", "mountPath": "/www", "subPath": "srv/www" }),
        json!({ "name": "site", "mountPath": "/etc/site.conf", "subPath": "etc/site.conf" }),
        json!({ "name": "site", "mountPath": "/all" }),
    ];
    namespace.run(&pod_with(&cluster, "web", &[csi("site", &reference)], &mounts));
    assert_eq!(namespace.must(&["exec", "web", "--", "ls", "/www"]), "page.html\n");
    assert_eq!(namespace.read("web", "/etc/site.conf"), "conf: subpath");
    assert_eq!(namespace.read("web", "/all/etc/site.conf"), "conf: subpath");
    for file in ["/www/page.html", "/etc/site.conf"] {
        let tried = namespace.exec("web", &["sh", "-c", &format!("echo x > {file}")]);
        assert!(!tried.ok && tried.stderr.contains("Read-only file system"), "{file}: {tried:?}");
    }
    let uid = namespace.pod("web")["metadata"]["uid"].as_str().unwrap().to_owned();
    let driver = namespace.driver_of("web");
    namespace.delete_pod("web", imagevol_test_e2e::SOON);
    assert!(driver.volumes(&uid).is_empty(), "{:#?}", driver.volumes(&uid));
}

#[test]
fn a_sub_path_that_is_missing_is_named() {
    let Some(cluster) = Cluster::find("a_sub_path_that_is_missing_is_named") else { return };
    let namespace = cluster.namespace("nosubpath");
    let reference = images::push(cluster.registry(), "e2e/nosubpath", "v1", &images::site("nosubpath"));
    let mounts = [json!({ "name": "site", "mountPath": "/www", "subPath": "no/such" })];
    namespace.apply(&pod_with(&cluster, "web", &[csi("site", &reference)], &mounts));
    namespace.await_event("web", "Failed", "volumeMount \"site\"");
}

#[test]
fn volumes_and_containers_of_one_pod_share_images() {
    let Some(cluster) = Cluster::find("volumes_and_containers_of_one_pod_share_images") else { return };
    let namespace = cluster.namespace("shared");
    let site = images::push(cluster.registry(), "e2e/shared-site", "v1", &images::site("shared"));
    let model = images::push(cluster.registry(), "e2e/shared-model", "v1", &images::model("weights"));
    let volumes = [csi("site", &site), csi("again", &site), csi("model", &model), csi("unused", &site)];
    let mounts = ["site", "again", "model"].map(|name| json!({ "name": name, "mountPath": format!("/{name}") }));
    let mut pod = pod_with(&cluster, "web", &volumes, &mounts);
    let mut first = pod["spec"]["containers"][0].clone();
    first["name"] = json!("init");
    first["command"] = json!(["cmp", "/site/index.html", "/again/index.html"]);
    pod["spec"]["initContainers"] = json!([first]);
    let mut second = pod["spec"]["containers"][0].clone();
    second["name"] = json!("second");
    pod["spec"]["containers"].as_array_mut().unwrap().push(second);
    namespace.run(&pod);
    for container in ["shell", "second"] {
        let read =
            namespace.must(&["exec", "web", "-c", container, "--", "cat", "/site/index.html", "/model/weights.bin"]);
        assert_eq!(read, "sharedweights");
    }
    let volumes = namespace.driver_of("web").volumes(namespace.pod("web")["metadata"]["uid"].as_str().unwrap());
    assert_eq!(volumes.len(), 4, "{volumes:#?}");
}
