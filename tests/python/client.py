"""Drives the broker with Python's grpcio: every call of the contract, health and reflection.

Started by tests/python_client.rs with BROKER (host:port), PKI (a directory) and generated stubs.
"""

import os
import sys
import threading
import traceback

import grpc
from google.protobuf import descriptor_pool, duration_pb2, message_factory
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from job.v1 import job_pb2 as pb
from job.v1 import job_pb2_grpc

CALL = 60  # seconds within which each call has to answer


def channel(user):
    def read(name):
        with open(os.path.join(os.environ["PKI"], name), "rb") as file:
            return file.read()

    credentials = grpc.ssl_channel_credentials(
        read("ca.crt"), read(f"{user}.key"), read(f"{user}.crt")
    )
    return grpc.secure_channel(os.environ["BROKER"], credentials)


CHANNEL = channel("user-a")
JOBS = job_pb2_grpc.JobServiceStub(CHANNEL)
OTHER = job_pb2_grpc.JobServiceStub(channel("user-b"))


def start(*argv, stub=JOBS, request_id="", **spec):
    spec = pb.JobSpec(argv=argv, **spec)
    return stub.StartJob(pb.StartJobRequest(spec=spec, request_id=request_id), timeout=CALL).job


def ended(job):
    request = pb.WaitJobRequest(id=job.id, until=pb.WaitJobRequest.end)
    answer = JOBS.WaitJob(request, timeout=CALL)
    assert answer.done
    return answer.job


def output(job):
    """Both streams, and the job of the trailer, which has to be the last message."""
    streams, trailer = {pb.out: b"", pb.err: b""}, None
    for message in JOBS.StreamOutput(pb.StreamOutputRequest(id=job.id, follow=True), timeout=CALL):
        assert trailer is None
        if message.WhichOneof("kind") == "chunk":
            chunk = message.chunk
            assert chunk.offset == len(streams[chunk.stream])
            streams[chunk.stream] += chunk.data
        else:
            trailer = message.trailer.job
    return streams[pb.out], streams[pb.err], trailer


def refused(call):
    """The status code and the first detail of each kind."""
    try:
        call()
    except grpc.RpcError as error:
        details = {}
        for key, value in error.trailing_metadata():
            if key == "grpc-status-details-bin":
                for detail in status_pb2.Status.FromString(value).details:
                    for kind in (
                        error_details_pb2.BadRequest,
                        error_details_pb2.ErrorInfo,
                        error_details_pb2.ResourceInfo,
                    ):
                        if detail.Is(kind.DESCRIPTOR):
                            details[kind.__name__] = kind.FromString(detail.value)
        return error.code(), details
    raise AssertionError("it was not refused")


def a_job_starts_streams_and_ends():
    job = start("sh", "-c", "echo out; echo err >&2; exit 7")
    assert job.owner == "user-a"
    out, err, trailer = output(job)
    assert (out, err) == (b"out\n", b"err\n")
    assert (trailer.state, trailer.cause, trailer.exit_code) == (pb.Job.finished, pb.exited, 7)
    ended = JOBS.GetJob(pb.GetJobRequest(id=job.id), timeout=CALL).job
    assert ended.usage.wall_time.ToNanoseconds() > 0
    for figures in (ended, trailer):  # a trailer comes before they are counted up
        figures.ClearField("usage")
        figures.ClearField("limits")
    assert ended == trailer


def a_wait_with_a_timeout_answers_in_time():
    job = start("sleep", "1000")
    request = pb.WaitJobRequest(id=job.id, timeout=duration_pb2.Duration(nanos=10_000_000))
    answer = JOBS.WaitJob(request, timeout=CALL)
    assert not answer.done and answer.job.state == pb.Job.running
    JOBS.StopJob(pb.StopJobRequest(id=job.id, grace=duration_pb2.Duration()), timeout=CALL)
    ended(job)


def a_stop_tells_who_it_was():
    job = start("sleep", "1000")
    JOBS.StopJob(pb.StopJobRequest(id=job.id), timeout=CALL)
    job = ended(job)
    assert (job.cause, job.source, job.ended_by) == (pb.stopped, pb.user, "user-a")
    assert job.signal == 15 and not job.HasField("exit_code")


def a_signal_reaches_the_job():
    job = start("sleep", "1000")
    JOBS.SignalJob(pb.SignalJobRequest(id=job.id, signal=10), timeout=CALL)
    job = ended(job)
    assert (job.cause, job.signal) == (pb.signaled, 10)


def the_list_is_filtered_and_paged():
    ids = [ended(start("true", labels={"suite": "list"})).id for _ in range(3)]
    request = pb.ListJobsRequest(labels={"suite": "list"}, page_size=2)
    first = JOBS.ListJobs(request, timeout=CALL)
    request.page_token = first.next_page_token
    second = JOBS.ListJobs(request, timeout=CALL)
    assert [job.id for job in list(first.jobs) + list(second.jobs)] == ids[::-1]
    assert not second.next_page_token


def an_ended_job_is_deleted():
    job = ended(start("true"))
    JOBS.DeleteJob(pb.DeleteJobRequest(id=job.id), timeout=CALL)
    code, _ = refused(lambda: JOBS.GetJob(pb.GetJobRequest(id=job.id), timeout=CALL))
    assert code == grpc.StatusCode.NOT_FOUND


def the_same_request_is_one_job():
    first = start("true", request_id="python")
    assert start("true", request_id="python").id == first.id
    code, details = refused(lambda: start("false", request_id="python"))
    assert code == grpc.StatusCode.ALREADY_EXISTS
    assert details["ErrorInfo"].metadata["job"] == first.id


def errors_carry_details():
    code, details = refused(lambda: start())
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert details["BadRequest"].field_violations[0].field == "spec.argv"
    code, details = refused(lambda: start("/no/such"))
    assert code == grpc.StatusCode.FAILED_PRECONDITION
    info = details["ErrorInfo"]
    assert (info.reason, info.domain) == ("START_FAILED", "job-broker")
    assert (info.metadata["step"], info.metadata["errno"]) == ("exec", "2")


def a_refusal_fits_into_the_metadata_that_a_client_takes_by_default():
    labels = {f"a bad key {n}": "" for n in range(60)}
    code, details = refused(lambda: start("true", labels=labels))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert details["BadRequest"].field_violations[0].field == "spec.labels"
    code, details = refused(lambda: start("true", env={f"{n}=": "" for n in range(5000)}))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert len(details["BadRequest"].field_violations) <= 17
    code, details = refused(lambda: JOBS.GetJob(pb.GetJobRequest(id="\x1b" * 2_000_000), timeout=CALL))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert details["BadRequest"].field_violations[0].field == "id"
    # The services beside the contract repeat what they do not know.
    stub = reflection_pb2_grpc.ServerReflectionStub(CHANNEL)
    question = reflection_pb2.ServerReflectionRequest(file_by_filename="\x1b" * 10_000)
    code, _ = refused(lambda: list(stub.ServerReflectionInfo(iter([question]), timeout=CALL)))
    assert code == grpc.StatusCode.NOT_FOUND, code


def jobs_of_others_do_not_exist():
    theirs = start("sleep", "1000", stub=OTHER)
    code, details = refused(lambda: JOBS.GetJob(pb.GetJobRequest(id=theirs.id), timeout=CALL))
    assert code == grpc.StatusCode.NOT_FOUND
    assert details["ResourceInfo"].resource_name == theirs.id
    OTHER.StopJob(pb.StopJobRequest(id=theirs.id, grace=duration_pb2.Duration()), timeout=CALL)
    OTHER.WaitJob(pb.WaitJobRequest(id=theirs.id, until=pb.WaitJobRequest.end), timeout=CALL)
    me = JOBS.WhoAmI(pb.WhoAmIRequest(), timeout=CALL)
    assert (me.identity, me.admin) == ("user-a", False)


def input_is_written_by_offset_and_acknowledged():
    job = start("cat", stdin=True)
    lines = [b"line %d\n" % n for n in range(100)]
    acknowledged = threading.Semaphore(1)

    def pieces():
        offset = 0
        for line in lines:
            acknowledged.acquire()
            yield pb.WriteInputRequest(id=job.id, offset=offset, data=line)
            offset += len(line)
        acknowledged.acquire()
        yield pb.WriteInputRequest(id=job.id, offset=offset, end=True)

    accepted = []
    for answer in JOBS.WriteInput(pieces(), timeout=CALL):
        accepted.append(answer.accepted)
        acknowledged.release()
    assert accepted == sorted(accepted) and accepted[-1] == len(b"".join(lines))
    assert output(job)[0] == b"".join(lines)


def health_is_serving():
    health = health_pb2_grpc.HealthStub(CHANNEL)
    for service in ("", "job.v1.JobService"):
        answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=CALL)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING, service


def reflection_is_enough_for_a_client_without_the_proto():
    database = ProtoReflectionDescriptorDatabase(CHANNEL)
    services = set(database.get_services())
    assert {"job.v1.JobService", "grpc.health.v1.Health"} <= services, services
    pool = descriptor_pool.DescriptorPool(database)
    method = pool.FindServiceByName("job.v1.JobService").FindMethodByName("GetServerInfo")
    call = CHANNEL.unary_unary(
        f"/{method.containing_service.full_name}/{method.name}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
    )
    info = call(message_factory.GetMessageClass(method.input_type)(), timeout=CALL)
    assert info.version and info.kernel and info.run_as[0] == "nobody"


def main():
    tests = [
        a_job_starts_streams_and_ends,
        a_wait_with_a_timeout_answers_in_time,
        a_stop_tells_who_it_was,
        a_signal_reaches_the_job,
        the_list_is_filtered_and_paged,
        an_ended_job_is_deleted,
        the_same_request_is_one_job,
        errors_carry_details,
        a_refusal_fits_into_the_metadata_that_a_client_takes_by_default,
        jobs_of_others_do_not_exist,
        input_is_written_by_offset_and_acknowledged,
        health_is_serving,
        reflection_is_enough_for_a_client_without_the_proto,
    ]
    passed = 0
    for test in tests:
        try:
            test()
            passed += 1
        except Exception:
            print(f"{test.__name__} failed", file=sys.stderr)
            traceback.print_exc()
    print(f"{passed} of {len(tests)} passed")
    sys.exit(passed != len(tests))


main()
