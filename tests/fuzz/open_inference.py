"""Send malformed messages of the Open Inference Protocol, in each of its encodings."""

import json
import random
from urllib.parse import urlsplit

import grpc
import httpx2

from tests.fuzz.messages import changed_bytes, changed_value, enlarged_value
from tests.fuzz.sending import PATIENCE, Findings, is_good_status
from tests.service.transports.open_inference.encodings import grpc_request, rest_body, tensors_of
from tests.systems import crystal

ARRAYS = tensors_of(crystal(4), crystal(1, seed=1))
_PATH, _METHOD = "/v2/models/soft/infer", "/inference.GRPCInferenceService/ModelInfer"
_PARAMETERS = {"priority": 2, "timeout": 50_000_000}
_HEADER_LENGTH = "Inference-Header-Content-Length"


def send_as_tensors(
    rest_url: str, grpc_url: str, n_messages: int, seed: int, findings: Findings
) -> None:
    chance = random.Random(seed)
    with (
        httpx2.Client(base_url=rest_url, timeout=PATIENCE) as rest,
        grpc.insecure_channel(urlsplit(grpc_url).netloc) as channel,
    ):
        for _ in range(n_messages):
            if (encoding := chance.choice(["json", "binary", "grpc", "grpc contents"]))[0] == "g":
                _send_over_grpc(channel, encoding, chance, findings)
            else:
                _send_over_rest(rest, encoding, chance, findings)


def _send_over_rest(
    rest: httpx2.Client, encoding: str, chance: random.Random, findings: Findings
) -> None:
    header, raw = rest_body(encoding == "binary", ARRAYS, ["energy"], "1", _PARAMETERS)
    change = chance.choice([changed_value, enlarged_value])
    header = json.dumps(change(json.loads(header), chance)).encode()
    length = len(header)
    if chance.random() < 0.3:
        header = changed_bytes(header, chance)
    headers = {_HEADER_LENGTH: str(length)} if raw else {}
    reply = rest.post(_PATH, content=header + raw, headers=headers)
    is_good = reply.status_code < 500 or "the model" in reply.text
    findings.note(encoding, header + raw, str(reply.status_code), is_good=is_good)


def _send_over_grpc(
    channel: grpc.Channel, encoding: str, chance: random.Random, findings: Findings
) -> None:
    message = grpc_request(encoding, ARRAYS, ["energy"], label="1", parameters=_PARAMETERS)
    data = changed_bytes(message.SerializeToString(), chance)
    outcome, details = "OK", ""
    try:
        channel.unary_unary(_METHOD)(data, timeout=PATIENCE)
    except grpc.RpcError as error:
        outcome, details = error.code().name, error.details() or ""
    findings.note(encoding, data, outcome, is_good=is_good_status(outcome, details))
