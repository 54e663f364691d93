# A seat of a class: the locked environment, the lessons, a server that only the host reaches.
#   docker build --tag manifold-xai . && docker run --rm --publish 127.0.0.1:8888:8888 manifold-xai
FROM python:3.11-slim-bookworm

ENV OMP_WAIT_POLICY=passive \
    OMP_NUM_THREADS=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1

RUN useradd --create-home seat
WORKDIR /home/seat/course

COPY requirements/constraints.txt requirements/constraints.txt
COPY setup.py settings.ini pyproject.toml README.md LICENSE ./
COPY manifold_xai manifold_xai
RUN pip install --extra-index-url https://download.pytorch.org/whl/cpu \
    -c requirements/constraints.txt ".[course]"

COPY --chown=seat nbs nbs
USER seat
EXPOSE 8888
CMD ["jupyter", "lab", "--ip=0.0.0.0", "--no-browser", "nbs"]
