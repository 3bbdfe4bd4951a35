//! Compares our definitions with the tables in `facts/` (DESIGN D10).
//!
//! Every `base` row must be defined exactly as listed. A `later` row may be left out; once its message, enum or service
//! defines something by that name or number, it must agree too. Nothing unlisted may be defined in a listed package, so
//! that no field of our own slips into the public interface.

mod tables;

use std::collections::BTreeMap;

use prost::Message;
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet,
    field_descriptor_proto::{Label, Type},
};
use tables::{Key, Kind, Row};

/// What our definitions say about one name: number, type, ref, label and oneof as in the tables.
type Facts = BTreeMap<Key, [String; 5]>;

fn descriptors() -> FileDescriptorSet {
    FileDescriptorSet::decode(proto::FILE_DESCRIPTOR_SET)
        .expect("build.rs encodes a descriptor set")
}

/// All messages that stand for map entries, with the types of key and value.
fn map_entries(set: &FileDescriptorSet) -> BTreeMap<String, String> {
    fn visit(scope: &str, message: &DescriptorProto, entries: &mut BTreeMap<String, String>) {
        let name = format!("{scope}.{}", message.name());
        for nested in &message.nested_type {
            visit(&name, nested, entries);
        }
        if message
            .options
            .as_ref()
            .is_some_and(|options| options.map_entry())
        {
            let types: Vec<String> = message.field.iter().map(plain_type).collect();
            entries.insert(name, types.join(","));
        }
    }
    let mut entries = BTreeMap::new();
    for file in &set.file {
        for message in &file.message_type {
            visit(&format!(".{}", file.package()), message, &mut entries);
        }
    }
    entries
}

/// The type of a field in a map entry: its scalar name, or the full name of what it refers to.
fn plain_type(field: &FieldDescriptorProto) -> String {
    match field.type_name() {
        "" => field
            .r#type()
            .as_str_name()
            .trim_start_matches("TYPE_")
            .to_lowercase(),
        name => name.trim_start_matches('.').to_owned(),
    }
}

fn facts_of(set: &FileDescriptorSet) -> Facts {
    let entries = map_entries(set);
    let mut facts = Facts::new();
    for file in &set.file {
        let package = file.package();
        for message in &file.message_type {
            message_facts(package, "", message, &entries, &mut facts);
        }
        for item in &file.enum_type {
            enum_facts(package, "", item, &mut facts);
        }
        for service in &file.service {
            for method in &service.method {
                let label = match (method.client_streaming(), method.server_streaming()) {
                    (false, false) => "unary",
                    (true, false) => "client-stream",
                    (false, true) => "server-stream",
                    (true, true) => "bidi",
                };
                let request = method.input_type().trim_start_matches('.');
                let response = method.output_type().trim_start_matches('.');
                facts.insert(
                    Key::new(package, Kind::Method, service.name(), method.name()),
                    ["", request, response, label, ""].map(str::to_owned),
                );
            }
        }
    }
    facts
}

fn message_facts(
    package: &str,
    scope: &str,
    message: &DescriptorProto,
    entries: &BTreeMap<String, String>,
    facts: &mut Facts,
) {
    if message
        .options
        .as_ref()
        .is_some_and(|options| options.map_entry())
    {
        return;
    }
    let name = format!("{scope}{}", message.name());
    facts.insert(
        Key::new(package, Kind::Message, "", &name),
        Default::default(),
    );
    for field in &message.field {
        facts.insert(
            Key::new(package, Kind::Field, &name, field.name()),
            field_facts(message, field, entries),
        );
    }
    let scope = format!("{name}.");
    for nested in &message.nested_type {
        message_facts(package, &scope, nested, entries, facts);
    }
    for item in &message.enum_type {
        enum_facts(package, &scope, item, facts);
    }
}

fn field_facts(
    message: &DescriptorProto,
    field: &FieldDescriptorProto,
    entries: &BTreeMap<String, String>,
) -> [String; 5] {
    let number = field.number().to_string();
    if let Some(types) = entries.get(field.type_name()) {
        return [
            number,
            "map".to_owned(),
            types.clone(),
            "map".to_owned(),
            String::new(),
        ];
    }
    let (kind, reference) = match field.r#type() {
        Type::Message => ("message".to_owned(), plain_type(field)),
        Type::Enum => ("enum".to_owned(), plain_type(field)),
        _ => (plain_type(field), String::new()),
    };
    let unpacked = field
        .options
        .as_ref()
        .is_some_and(|options| options.packed == Some(false));
    let label = match (field.label(), field.proto3_optional()) {
        (Label::Repeated, _) if unpacked => "repeated-unpacked",
        (Label::Repeated, _) => "repeated",
        (_, true) => "optional",
        (_, false) => "single",
    };
    let oneof = match field.oneof_index {
        Some(index) if !field.proto3_optional() => {
            message.oneof_decl[index as usize].name().to_owned()
        }
        _ => String::new(),
    };
    [number, kind, reference, label.to_owned(), oneof]
}

fn enum_facts(package: &str, scope: &str, item: &EnumDescriptorProto, facts: &mut Facts) {
    let name = format!("{scope}{}", item.name());
    facts.insert(Key::new(package, Kind::Enum, "", &name), Default::default());
    for value in &item.value {
        let mut fact: [String; 5] = Default::default();
        fact[0] = value.number().to_string();
        facts.insert(Key::new(package, Kind::Value, &name, value.name()), fact);
    }
}

/// Every way in which `facts` and the tables disagree, as sentences.
fn differences(rows: &[Row], facts: &Facts) -> Vec<String> {
    let mut found = Vec::new();
    let listed: BTreeMap<&Key, &Row> = rows.iter().map(|row| (&row.key, row)).collect();
    for row in rows {
        match facts.get(&row.key) {
            Some(fact) if *fact == row.fact => {}
            Some(fact) => found.push(format!("{}: {fact:?} is not {:?}", row.key, row.fact)),
            None if row.base => found.push(format!("{}: not defined", row.key)),
            None => {}
        }
    }
    let packages = tables::packages();
    for key in facts.keys() {
        if packages.contains(&key.package) && !listed.contains_key(key) {
            found.push(format!("{key}: not in the tables"));
        }
    }
    found
}

#[test]
fn definitions_agree_with_the_tables() {
    let rows = tables::rows();
    assert!(rows.len() > 1_400, "only {} rows were read", rows.len());
    let found = differences(&rows, &facts_of(&descriptors()));
    assert!(
        found.is_empty(),
        "{} differences:\n{}",
        found.len(),
        found.join("\n")
    );
}

#[test]
fn methods_to_serve_are_defined() {
    let facts = facts_of(&descriptors());
    for [package, service, method] in tables::served() {
        let key = Key::new(&package, Kind::Method, &service, &method);
        assert!(
            facts.contains_key(&key),
            "{key} is in rpcs.csv and not defined"
        );
    }
}

/// The message of `package` with this name in `set`.
fn message_in<'a>(
    set: &'a mut FileDescriptorSet,
    package: &str,
    name: &str,
) -> &'a mut DescriptorProto {
    set.file
        .iter_mut()
        .filter(|file| file.package() == package)
        .flat_map(|file| &mut file.message_type)
        .find(|message| message.name() == name)
        .expect("the message is defined")
}

fn field_in<'a>(message: &'a mut DescriptorProto, name: &str) -> &'a mut FieldDescriptorProto {
    message
        .field
        .iter_mut()
        .find(|field| field.name() == name)
        .expect("the field is defined")
}

/// An alteration of a descriptor set, and the name that the check must complain about.
type Alteration = (&'static str, fn(&mut FileDescriptorSet));

const ALTERATIONS: [Alteration; 12] = [
    ("kvrpcpb.RawPutRequest.ttl: [\"9\"", |set| {
        field_in(message_in(set, "kvrpcpb", "RawPutRequest"), "ttl").number = Some(9);
    }),
    ("kvrpcpb.RawPutRequest.value: [\"3\", \"string\"", |set| {
        field_in(message_in(set, "kvrpcpb", "RawPutRequest"), "value").set_type(Type::String);
    }),
    (
        "metapb.Region.region_epoch: [\"4\", \"message\", \"metapb.Peer\"",
        |set| {
            field_in(message_in(set, "metapb", "Region"), "region_epoch").type_name =
                Some(".metapb.Peer".to_owned());
        },
    ),
    (
        "metapb.Region.peers: [\"5\", \"message\", \"metapb.Peer\", \"single\"",
        |set| {
            field_in(message_in(set, "metapb", "Region"), "peers").set_label(Label::Optional);
        },
    ),
    (
        "kvrpcpb.RawBatchPutRequest.ttls: [\"6\", \"uint64\", \"\", \"repeated-unpacked\"",
        |set| {
            let options = prost_types::FieldOptions {
                packed: Some(false),
                ..Default::default()
            };
            field_in(message_in(set, "kvrpcpb", "RawBatchPutRequest"), "ttls").options =
                Some(options);
        },
    ),
    (
        "kvrpcpb.Context.keyspace_id: [\"32\", \"uint32\", \"\", \"single\", \"\"]",
        |set| {
            field_in(message_in(set, "kvrpcpb", "Context"), "keyspace_id").oneof_index = None;
        },
    ),
    (
        "keyspacepb.KeyspaceMeta.config: [\"7\", \"map\", \"string,bytes\"",
        |set| {
            let entry = &mut message_in(set, "keyspacepb", "KeyspaceMeta").nested_type[0];
            entry.field[1].set_type(Type::Bytes);
        },
    ),
    ("errorpb.Error.not_leader: not defined", |set| {
        message_in(set, "errorpb", "Error")
            .field
            .retain(|field| field.name() != "not_leader");
    }),
    ("errorpb.Error.ours: not in the tables", |set| {
        let ours = FieldDescriptorProto {
            name: Some("ours".to_owned()),
            number: Some(99),
            ..Default::default()
        };
        message_in(set, "errorpb", "Error").field.push(ours);
    }),
    ("metapb.Peer: not defined", |set| {
        for file in set
            .file
            .iter_mut()
            .filter(|file| file.package() == "metapb")
        {
            file.message_type.retain(|message| message.name() != "Peer");
        }
    }),
    ("kvrpcpb.APIVersion.V2: [\"7\"", |set| {
        for file in set
            .file
            .iter_mut()
            .filter(|file| file.package() == "kvrpcpb")
        {
            for item in file
                .enum_type
                .iter_mut()
                .filter(|item| item.name() == "APIVersion")
            {
                item.value[2].number = Some(7);
            }
        }
    }),
    (
        "pdpb.PD.Tso: [\"\", \"pdpb.TsoRequest\", \"pdpb.TsoResponse\", \"server-stream\"",
        |set| {
            for service in set.file.iter_mut().flat_map(|file| &mut file.service) {
                for method in service
                    .method
                    .iter_mut()
                    .filter(|method| method.name() == "Tso")
                {
                    method.client_streaming = Some(false);
                }
            }
        },
    ),
];

/// The check itself is worth nothing unless it notices each kind of difference.
#[test]
fn altered_definitions_are_noticed() {
    let rows = tables::rows();
    for (complaint, alter) in ALTERATIONS {
        let mut set = descriptors();
        alter(&mut set);
        let found = differences(&rows, &facts_of(&set));
        assert!(
            found.iter().any(|line| line.starts_with(complaint)),
            "{complaint} was not noticed; found {found:?}"
        );
    }
}
