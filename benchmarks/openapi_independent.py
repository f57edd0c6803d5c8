"""Reads requests with libraries of others: run by `openapi_documents.py` in an environment that has them, not by hand.

uritemplate expands the path and query that the arguments should give. openapi-core reads the parameters and the body
back. Neither shares code with AgentRL, which is not imported here.
"""

import json
import re
import sys
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

import uritemplate
from openapi_core import OpenAPI
from openapi_core.configurations import Config
from openapi_core.testing import MockRequest


def without_formats(value):
    """The schemas without `format`: openapi-core would make dates of texts, and drawn texts are no dates."""
    if isinstance(value, list):
        return [without_formats(item) for item in value]
    if isinstance(value, dict):
        return {k: without_formats(v) for k, v in value.items() if k != "format" or isinstance(v, dict)}
    return value


class Reader:
    def __init__(self, path):
        self.document = json.loads(Path(path).read_text(encoding="utf-8"))
        self.components = without_formats(self.document["components"])

    def operation(self, made):
        return made["path"], made["method"].lower(), self.document["paths"][made["path"]]

    def look_up(self, parameter):
        return self.components["parameters"][parameter["$ref"].rsplit("/", 1)[-1]] if "$ref" in parameter else parameter

    def parameters(self, item, method):
        given = [*item.get("parameters", []), *item[method].get("parameters", [])]
        return [self.look_up(parameter) for parameter in given]

    def line(self, made):
        """The path and query that RFC 6570 gives, or None where the document has a style that it does not have."""
        path, method, item = self.operation(made)
        template, names, values = path, [], {}
        for number, parameter in enumerate(self.parameters(item, method)):
            name, place, style = parameter["name"], parameter["in"], parameter.get("style")
            if name not in made["arguments"] or place not in ("path", "query"):
                continue
            if style not in (None, "form", "simple"):
                return None
            value = made["arguments"][name]
            if isinstance(value, dict) or (isinstance(value, list) and not value) or value is None:
                return None
            variable = f"v{number}"
            if place == "path":
                template = template.replace("{" + name + "}", "{" + variable + "}")
            else:
                names.append((name, variable, "*" if parameter.get("explode", True) else ""))
            values[variable] = [text(v) for v in value] if isinstance(value, list) else text(value)
        query = ",".join(f"{variable}{explode}" for _, variable, explode in names)
        expanded = uritemplate.expand(template + ("{?" + query + "}" if query else ""), values)
        for name, variable, _ in names:
            expanded = re.sub(rf"([?&]){variable}=", rf"\g<1>{name}=", expanded)
        return expanded

    def read_back(self, made):
        """What openapi-core reads: parameters by place, the body, and its errors."""
        path, method, item = self.operation(made)
        paths = {path: {method: without_formats(item[method]), "parameters": item.get("parameters", [])}}
        document = {key: self.document[key] for key in ("openapi", "info")}
        document |= {"servers": [{"url": "https://api.example"}], "paths": paths, "components": self.components}
        api = OpenAPI.from_dict(document, config=Config(spec_validator_cls=None))
        url = urlsplit(made["target"])
        pattern = "([^/]+)".join(map(re.escape, re.split(r"\{[^{}]*\}", path)))
        arguments = re.fullmatch(pattern, url.path)
        assert arguments is not None, (path, url.path)
        names = re.findall(r"\{([^{}]*)\}", path)
        request = MockRequest(
            "https://api.example",
            method,
            url.path,
            path_pattern=path,
            args=parse_qsl(url.query, keep_blank_values=True),
            view_args={name: unquote(value) for name, value in zip(names, arguments.groups(), strict=True)},
            headers=made["headers"],
            data=made["body"].encode() or None,
            content_type=made["headers"].get("content-type", "application/json"),
        )
        return api.unmarshal_request(request)


def text(value):
    return value if isinstance(value, str) else json.dumps(value)


def holds(read, sent):
    """Whether what was read is what was sent, and the defaults that openapi-core adds."""
    if isinstance(sent, dict):
        return isinstance(read, dict) and all(key in read and holds(read[key], value) for key, value in sent.items())
    if isinstance(sent, list):
        return isinstance(read, list) and len(read) == len(sent) and all(map(holds, read, sent))
    return read == sent


def normal(line):
    """Blanks may be written in two ways in a query."""
    path, _, query = line.partition("?")
    return path + "?" + query.replace("+", "%20")


def main():
    reader, given = Reader(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
    lines, bodies, differ = 0, 0, []
    for made in given:
        problems = {}
        expected = reader.line(made)
        if expected is not None:
            lines += 1
            if normal(expected) != normal(made["target"]):
                problems["line"] = [expected, made["target"]]
        result = reader.read_back(made)
        if result.errors:
            problems["errors"] = [f"{type(e).__name__}: {e}: {e.__cause__}"[:300] for e in result.errors]
        else:
            _, method, item = reader.operation(made)
            places = {p["name"]: p["in"] for p in reader.parameters(item, method)}
            read = {name: getattr(result.parameters, places[name]).get(name) for name in places}
            sent = {name: value for name, value in made["arguments"].items() if name in places}
            if {name: read[name] for name in sent} != sent:
                problems["parameters"] = [sent, {name: read[name] for name in sent}]
            body = {name: value for name, value in made["arguments"].items() if name not in places}
            if made["body"]:
                bodies += 1
                whole = body["body"] if set(body) == {"body"} and json.loads(made["body"]) == body["body"] else body
                if not holds(result.body, whole) or json.loads(made["body"]) != whole:
                    problems["body"] = [whole, made["body"], result.body]
            elif body:
                problems["body"] = [body, ""]
        if problems:
            differ.append({"operation": made["operation"], **problems})
    print(json.dumps({"requests": len(given), "lines": lines, "bodies": bodies, "differ": differ}, default=str))


if __name__ == "__main__":
    main()
