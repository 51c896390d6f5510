"""Opens a profile with flameshow's own parsers: readers.py PACKAGES flameshow|pprof FILE. Prints JSON."""
import gzip
import json
import sys

sys.path.insert(0, sys.argv[1])
what, path = sys.argv[2:]
with open(path, "rb") as f:
    content = f.read()

if what == "flameshow":
    from flamegraph_textual.parsers import parse

    profile = parse(content, path)
    names = set()

    def walk(frame):
        names.add(frame.name)
        for child in frame.children or []:
            walk(child)

    walk(profile.root_stack)
    print(json.dumps({
        "total": profile.root_stack.values[-1],
        "units": [t.sample_unit for t in profile.sample_types],
        "names": sorted(names),
    }))
else:
    from flamegraph_textual.parsers import profile_pb2

    p = profile_pb2.Profile()
    p.ParseFromString(gzip.decompress(content))
    s = p.string_table
    functions = {f.id: s[f.name] for f in p.function}
    locations = {l.id: functions[l.line[0].function_id] for l in p.location}
    print(json.dumps({
        "sample_types": [[s[t.type], s[t.unit]] for t in p.sample_type],
        "first_string": s[0],
        "mappings": [[m.id, s[m.filename], m.has_functions] for m in p.mapping],
        "location_mappings": sorted({l.mapping_id for l in p.location}),
        "default_sample_type": p.default_sample_type,
        "duration_nanos": p.duration_nanos,
        "samples": [{
            "stack": [locations[i] for i in sample.location_id],
            "values": list(sample.value),
            "labels": {s[l.key]: s[l.str] for l in sample.label},
        } for sample in p.sample],
    }))
